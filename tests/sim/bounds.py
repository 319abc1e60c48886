"""The sizes of agents' tables and queues: the one thing of their inside that invariants look at, beside roles."""

from __future__ import annotations

from collections.abc import Iterator

from tests.sim.agents import Agent, End

__all__ = ["oversized"]

#: Sessions' paths and ufrags in the routing tables.
_ROUTES = 64 + 4
#: Requests whose answers find their session.
_ASKED = 6000
#: Remote candidates beyond the limit, of peers that nominate.
_NOMINATED = 8
#: Checks on a pair: the present one and those that it replaced.
_CHECKS = 17


def oversized(agent: Agent) -> Iterator[str]:
    """What is larger than it may be, in words."""
    for party in agent.parties:
        if party.ended is None:
            for name, (size, limit) in _sizes(party).items():
                if size > limit:
                    yield f"{party.name} has {size} {name}, at most {limit} are allowed"
    routes = agent.endpoint._routes
    if len(routes) > len(agent.parties) * _ROUTES or len(routes._asked) > _ASKED:
        yield f"{agent.name} has {len(routes)} routes and {len(routes._asked)} requests"


def _sizes(party: End) -> dict[str, tuple[int, int]]:
    """Sizes and limits."""
    link, limits = party.connection._link, party.agent.config
    ice = link.ice
    sizes = {
        "actions": (len(ice._shared.actions), 0),
        "events": (len(ice._shared.events), 0),
        "dropped": (ice.drops["action_queue_full"] + ice.drops["event_queue_full"], 0),
        "held": (len(link._held), 32),
        "retiring": (len(ice._slots._retiring), 2),
        "ufrags": (len(ice.ufrags()), 4),
    }
    for generation in ice._slots.all():
        checklist = generation.checklist
        number = f" of generation {generation.number}"
        sizes |= {
            "pairs" + number: (len(checklist), limits.max_pairs),
            "checks" + number: (len(generation._checks), _CHECKS * len(checklist)),
            "local" + number: (sum(generation.locals.counts().values()), limits.max_local_candidates),
            "remote" + number: (sum(generation.remotes.counts().values()), limits.max_remote_candidates + _NOMINATED),
            "heard" + number: (len(generation.heard), 2 * limits.max_remote_candidates + 1),
            "early" + number: (len(generation._early._by_path), 32),
            "triggered" + number: (len(checklist._triggered), len(checklist)),
        }
    return sizes

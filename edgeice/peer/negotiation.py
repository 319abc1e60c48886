"""Offer and answer of one session: descriptions in, parameters out (RFC 8839 §4, RFC 8841, RFC 8842)."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import attrs

from edgeice import sdp
from edgeice.errors import DecodeError, LocalProtocolError, RemoteProtocolError
from edgeice.ice import IceConfig, IceCredentials, RemoteParameters
from edgeice.peer.link import IceLink
from edgeice.peer.pathways import Pathways
from edgeice.sansio import Entropy
from edgeice.sctp import SctpConfig

__all__ = ["DtlsRole", "Negotiation"]

DtlsRole: TypeAlias = Literal["client", "server"]

#: The ICE option of draft-thatcher-ice-renomination-01; opposite peers without it nomination is final.
_RENOMINATION: Final = "renomination"
#: Of edgeice: candidates come and go after nomination, pairs are kept as backups, and either end's moves are followed.
_MOBILITY: Final = "edgeice-mobility"


def _options(config: IceConfig) -> tuple[str, ...]:
    """The ICE options of this side; moves are numbered as nominations are, so mobility needs renomination."""
    if not config.renomination:
        return "trickle", "ice2"
    return ("trickle", "ice2", _RENOMINATION, _MOBILITY) if config.mobility else ("trickle", "ice2", _RENOMINATION)


class Negotiation:
    """The offer/answer state of one session.

    Attributes:
        remote: The peer's latest description, None before the first.
        fingerprints_settled: Whether DTLS has been told the peer's fingerprints.
    """

    def __init__(
        self, link: IceLink, pathways: Pathways, fingerprint: str, config: SctpConfig, entropy: Entropy
    ) -> None:
        self.remote: sdp.SessionDescription | None = None
        self.fingerprints_settled = False
        self._link = link
        self._pathways = pathways
        self._fingerprint = fingerprint
        self._config = config
        self._role: DtlsRole | None = None
        self._offer: sdp.SessionDescription | None = None
        self._last: sdp.SessionDescription | None = None
        # RFC 8829 §5.2.1: a random 63-bit session id, whose version counts descriptions.
        self._session_id = int.from_bytes(entropy.token_bytes(8)) >> 1
        self._version = 0

    @property
    def awaits_answer(self) -> bool:
        """Whether an offer is out."""
        return self._offer is not None

    @property
    def role(self) -> DtlsRole:
        """This side's DTLS role, once both descriptions are known."""
        if self._role is None:
            raise LocalProtocolError("the DTLS role is not settled")
        return self._role

    def create_offer(self) -> str:
        """Describe the newest generation as an offer."""
        if self._offer is not None:
            raise LocalProtocolError("an offer is out already")
        self._offer = self._describe("actpass", self._last)
        return sdp.build(self._offer)

    def accept_answer(self, text: str, *, now: float) -> None:
        """Take the answer to the offer that is out."""
        if self._offer is None:
            raise LocalProtocolError("no offer is out")
        answer = sdp.parse(text)
        if answer.setup == "actpass":
            raise DecodeError("setup", "an answer chooses active or passive")
        self._check(answer)
        # RFC 8839 §4.4.2.1: the answer to a restart, which every later offer is, changes both credentials too.
        if self.remote is not None and not sdp.is_restart(self.remote, answer):
            raise RemoteProtocolError("the answer does not restart ICE")
        role: DtlsRole = "server" if answer.setup == "active" else "client"
        if self._role not in (None, role):
            raise RemoteProtocolError("the answer changes the DTLS role")
        self._last, self._offer, self._role = self._offer, None, role
        self._take(answer, now)

    def accept_offer(self, text: str, *, now: float) -> str:
        """Take an offer, which restarts ICE where its credentials are new, and describe the answer."""
        if self._offer is not None:
            raise LocalProtocolError("an offer is out; roll it back first")
        offer = sdp.parse(text)
        self._check(offer)
        present: sdp.Setup | None = None
        if self.remote is not None:
            present = "active" if self._role == "client" else "passive"
        setup = sdp.answer_setup(offer.setup, present)
        if self.remote is not None and sdp.is_restart(self.remote, offer):
            self._link.restart(now=now)
            self._pathways.take_events(now=now)
        self._role = "client" if setup == "active" else "server"
        self._take(offer, now)
        description = sdp.answer(offer, self._describe(setup, None), present=present)
        self._last = description
        return sdp.build(description)

    def rollback(self, *, now: float) -> None:
        """Take back the offer that is out, and the generation that it opened."""
        if self._offer is None or self.remote is None:
            raise LocalProtocolError("no restart is out")
        self._offer = None
        self._link.ice.revert_restart(now=now)

    def _check(self, description: sdp.SessionDescription) -> None:
        if description.ufrag in self._link.ice.ufrags():
            raise DecodeError("ufrag", "this side's own: a description that came back")
        if self.remote is not None and not sdp.keeps_dtls(self.remote, description):
            raise RemoteProtocolError("a restart may not change the DTLS fingerprint")

    def _take(self, description: sdp.SessionDescription, now: float) -> None:
        self.remote = description
        credentials = IceCredentials.parse(description.ufrag, description.pwd)
        pacing = None if description.pacing is None else description.pacing / 1000
        self._link.ice.set_remote_description(
            RemoteParameters(
                credentials=credentials,
                lite=description.lite,
                trickle=description.is_trickle,
                pacing=pacing,
                renomination=_RENOMINATION in description.options,
                mobility=_MOBILITY in description.options,
            ),
            now=now,
        )
        self._link.add_remote_candidates(description.candidates, description.ufrag, now=now)
        if description.end_of_candidates or not description.is_trickle:
            self._link.end_of_candidates(description.ufrag, now=now)

    def _describe(self, setup: sdp.Setup, like: sdp.SessionDescription | None) -> sdp.SessionDescription:
        ice = self._link.ice
        credentials = ice.local_credentials
        candidates, ended = self._pathways.describe(credentials.ufrag)
        self._version += 1
        description = sdp.SessionDescription(
            ufrag=credentials.ufrag,
            pwd=credentials.pwd,
            fingerprints=(("sha-256", self._fingerprint),),
            setup=setup,
            options=_options(ice.config),
            pacing=round(ice.config.pacing * 1000),
            sctp_port=self._config.local_port,
            max_message_size=self._config.max_message_size,
            candidates=candidates,
            end_of_candidates=ended,
            session_id=self._session_id,
            session_version=self._version,
        )
        if like is None:
            return description
        # A later offer keeps the m-sections as this side last described them (RFC 3264 §8).
        return attrs.evolve(
            description, mid=like.mid, bundle=like.bundle, proto=like.proto, index=like.index, others=like.others
        )

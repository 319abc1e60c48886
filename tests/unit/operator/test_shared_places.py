"""Who may open the next channel of a shared session."""

from __future__ import annotations

import random
from collections import Counter

from edgeice.operator.shared_places import Place, Places


def granted(places: list[Place]) -> list[int]:
    return [place.client for place in places if place.granted.is_set()]


def test_as_many_as_the_device_takes_are_granted_at_once_and_the_others_in_order() -> None:
    places = Places(4)
    asked = [places.ask(1) for _ in range(6)]
    assert granted(asked) == [1] * 4
    assert places.waiting == 2
    places.give_back(asked[1])
    assert [place.granted.is_set() for place in asked] == [True, True, True, True, True, False]
    places.give_back(asked[5])  # it does not want it any more
    places.give_back(asked[0])
    assert places.waiting == 0


def test_an_eighth_is_kept_for_clients_that_have_none() -> None:
    places = Places(64)
    hog = [places.ask(1) for _ in range(100)]
    assert len(granted(hog)) == 56
    others = [places.ask(client) for client in range(2, 12)]
    assert granted(others) == list(range(2, 10))
    # What becomes free is for those who have none, before it is for who has most.
    places.give_back(hog[0])
    assert granted(others) == list(range(2, 11))
    assert len(granted(hog)) == 56
    places.give_back(hog[1])
    assert granted(others) == list(range(2, 12))


def test_two_that_want_more_than_there_is_end_with_the_same() -> None:
    rng = random.Random(7)
    places = Places(64)
    asked = [places.ask(1) for _ in range(48)] + [places.ask(2) for _ in range(48)]
    for _ in range(2000):
        held = [place for place in asked if place.granted.is_set()]
        done = rng.choice(held)
        places.give_back(done)
        asked.remove(done)
        asked.append(places.ask(done.client))
        held = [place for place in asked if place.granted.is_set()]
        assert len(held) == 56
    assert Counter(place.client for place in held) == {1: 28, 2: 28}
    assert places.waiting == 40


def test_where_the_device_takes_few_none_is_kept() -> None:
    places = Places(1)
    first, second, third = places.ask(1), places.ask(2), places.ask(1)
    assert granted([first, second, third]) == [1]
    places.give_back(first)
    assert granted([second, third]) == [2]
    places.give_back(second)
    assert granted([third]) == [1]
    places.give_back(third)
    assert places.waiting == 0

"""What a follower is given of what has come."""

from __future__ import annotations

import trio

from atedb.chain.position import Position
from atedb.net.following import WINDOW, Following
from atedb.net.messages import Grant, Unfollow

OWN = Position(5, bytes(32))


def test_what_came_while_the_follower_was_busy_comes_at_once_and_in_order() -> None:
    """Putting what is pending on top costs the same for one batch and for many: a backlog must not cost it for each."""

    async def main() -> None:
        following = Following(1, lambda _: None)
        for news in ([b"1"], [b"2", b"3"], [b"4"], OWN, [b"6"], [b"7"]):
            following.add(news)
        assert await anext(following) == [b"1", b"2", b"3", b"4"]
        assert await anext(following) == OWN
        assert await anext(following) == [b"6", b"7"]

    trio.run(main)


def test_all_that_was_taken_up_at_once_may_come_again() -> None:
    granted: list[Grant | Unfollow] = []

    async def main() -> None:
        following = Following(1, granted.append)
        for _ in range(4):
            following.add([bytes(WINDOW // 4)])
        assert len(await anext(following)) == 4
        following.add([b"more"])

    trio.run(main)
    assert granted == [Grant(1, WINDOW)]

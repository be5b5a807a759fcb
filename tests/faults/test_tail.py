"""O4: the last bytes of a command that ends at once, thousands of times."""

import pytest

from tests.support.keepers import ForkServer, keep, kept, record_of, start


@pytest.mark.heavy
def test_o4_the_tail_is_never_lost(fork_server: ForkServer, whole: bool) -> None:
    """10,000 times `printf x; exit 3` (by default 2,000), three at once: always the x, always the 3."""
    keepers = [fork_server.keeper(number) for number in (1, 2, 3)]
    slots = [fork_server.slot(number) for number in (1, 2, 3)]
    for job in range(1, (10_000 if whole else 2_000) // 3 + 2):
        for keeper in keepers:
            start(keeper, job, "printf x; exit 3")
        for keeper, slot in zip(keepers, slots, strict=True):
            keeper.receive()
            record = record_of(slot, job)
            assert (record.end["exit_code"], slot.data(record, 0, record.end["stdout"])) == (3, b"x")
    for slot in slots:
        slot.close()


@pytest.mark.heavy
def test_o4_the_tail_is_never_lost_on_a_terminal(fork_server: ForkServer, whole: bool) -> None:
    """1,000 times `printf x; exit 3` (by default 200): always the x, always the 3."""
    with kept(fork_server) as (keeper, slot):
        for job in range(1, 1 + (1_000 if whole else 200)):
            end, data = keep(keeper, slot, job, "printf x; exit 3", tty=[24, 80], timeout=20)
            assert (end["exit_code"], data) == (3, b"x")

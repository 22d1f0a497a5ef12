import pytest

from featurestore.pipeline.batching import BatchSize


def settle(rate, largest=1024):
    """Run a batch size against a machine of ``rate(size)`` items per second."""
    size = BatchSize(8, largest=largest)
    for _ in range(10_000):
        if size.settled:
            break
        size.record(size.size, size.size, size.size / rate(size.size))
    return size


@pytest.mark.parametrize(("best", "found"), [(8, 8), (16, 16), (64, 64)])
def test_it_grows_while_the_rate_grows_and_steps_back(best, found):
    assert settle(lambda size: float(min(size, best))).size == found


def test_it_never_passes_the_largest():
    size = settle(float, largest=48)
    assert (size.size, size.settled) == (48, True)


def test_a_partial_batch_says_nothing():
    size = BatchSize(8)
    for _ in range(10):
        size.record(5, 5, 1.0)
    assert (size.size, size.settled) == (8, False)


def test_out_of_memory_halves_and_stays():
    size = BatchSize(8)
    size.out_of_memory(8)
    assert (size.size, size.settled, size.ran_out) == (4, True, True)
    size.out_of_memory(2)
    assert size.size == 1
    size.out_of_memory(8)  # a larger batch that was under way says nothing new
    assert size.size == 1

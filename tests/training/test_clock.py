"""The clock that a budget of time is counted by, on a watch that the test turns."""

from daybreak.training.clock import Clock
from daybreak.training.schedules import warmup_linear, within


class Watch:
    """Time that passes when it is told to."""

    def __init__(self):
        self.time = 1000.0

    def __call__(self):
        return self.time


def trained(clock, watch, seconds_per_step, most=10_000):
    """Learning rates of the steps until the clock says that it is over."""
    schedule, rates = within(warmup_linear(1.0, 0.0, 100, 1000), 1000, clock.share), []
    while not clock.is_over and len(rates) < most:
        rates.append(schedule(0))
        watch.time += seconds_per_step
        clock.agree(clock.reading())
    return rates


def test_it_ends_with_the_budget_and_its_last_step_arrives_at_the_floor():
    for seconds in (0.5, 1.0, 0.7, 7.3):
        clock, watch = Clock(60.0, now := Watch()), now
        rates = trained(clock, watch, seconds)
        assert abs(clock.seconds - 60) <= seconds / 2
        assert rates[-1] <= seconds / 60
        assert max(rates) > 0.9


def test_twice_as_slow_a_machine_has_the_same_learning_rate_at_the_same_time():
    fast, slow = (trained(Clock(60.0, watch := Watch()), watch, seconds) for seconds in (0.5, 1.0))
    assert len(fast) == 2 * len(slow) == 120
    assert max(abs(a - b) for a, b in zip(fast[5::2], slow[2:], strict=False)) < 0.02


def test_a_pause_does_not_count_and_what_was_before_does():
    watch = Watch()
    clock = Clock(60.0, watch)
    trained(clock, watch, 1.0, most=20)
    kept = clock.state_dict()
    watch.time += 1e6
    again = Clock(60.0, watch)
    again.load_state_dict(kept)
    assert again.seconds == 20
    assert len(trained(again, watch, 1.0)) == 40


def test_an_evaluation_between_two_steps_counts_but_is_not_taken_for_a_step():
    watch = Watch()
    clock = Clock(100.0, watch)
    for _ in range(10):
        watch.time += 1
        clock.agree(clock.reading())
    watch.time += 31
    clock.agree(clock.reading())
    assert (clock.seconds, clock.step) == (41, 1)


def test_without_a_budget_it_is_never_over_and_leaves_the_schedule_alone():
    watch = Watch()
    clock = Clock(None, watch)
    watch.time += 1e9
    clock.agree(clock.reading())
    assert (clock.is_over, clock.share(), clock.state_dict()) == (False, 0.0, {})
    schedule = warmup_linear(1.0, 0.0, 100, 1000)
    assert within(schedule, 1000, clock.share)(50) == schedule(50)

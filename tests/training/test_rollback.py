"""Going back: to before the trouble, further if it comes again, and not for ever."""

import pytest

from daybreak.training.guard import TrainingFailed, Trouble
from daybreak.training.rollback import Rollback, Rollbacks


def trouble(first, last):
    return Trouble(first, last, "the loss was high for 20 steps in a row")


def test_the_first_goes_to_before_the_trouble():
    assert Rollbacks().latest(trouble(50, 69), most=3) == 50


def test_the_same_trouble_again_goes_further_back():
    once = Rollbacks().with_one(trouble(50, 69), back_to=40)
    assert once.taken == (Rollback(50, 69, 40),)
    assert once.latest(trouble(41, 60), most=3) == 39
    assert once.latest(trouble(69, 88), most=3) == 39
    assert once.latest(trouble(70, 89), most=3) == 70  # it was past it
    twice = once.with_one(trouble(41, 60), back_to=20)
    assert twice.latest(trouble(60, 80), most=3) == 19


@pytest.mark.parametrize(("most", "said"), [(0, "in a row; begin"), (2, "in a row, after 2 rollbacks; begin")])
def test_it_ends_after_as_many_as_were_allowed(most, said):
    taken = Rollbacks()
    for number in range(most):
        taken.latest(trouble(100 * number, 100 * number + 20), most)
        taken = taken.with_one(trouble(100 * number, 100 * number + 20), 0)
    with pytest.raises(TrainingFailed, match=f"the loss was high for 20 steps {said} a new run with a lower train.learning_rate"):
        taken.latest(trouble(900, 920), most)

"""The factor by which float16 training scales its loss, found without a wait for the device."""

import torch
from torch import Tensor

# What torch's GradScaler begins with, and does at and between gradients that are not finite.
FIRST, GROWTH, BACKOFF, GROWTH_INTERVAL = 2.0**16, 2.0, 0.5, 2000
# No gradient of a loss that is this little scaled is too large because of it.
SMALLEST = 1.0


class LossScale:
    """Scale of the loss that keeps float16 gradients between 0 and infinity.

    It does what ``torch.amp.GradScaler`` does, but has a smallest value, at which a gradient that
    is not finite has another cause than the scale, and takes no notice of a loss that is not finite
    before it is scaled.

    Attributes:
        value: tensor of one number, at least ``SMALLEST``.
        steps: tensor with the number of updates since it last changed.
    """

    def __init__(self) -> None:
        self.value = torch.tensor(FIRST)
        self.steps = torch.tensor(0)

    def scale(self, loss: Tensor) -> Tensor:
        """Return the loss to compute gradients of."""
        self.value, self.steps = (x.to(loss.device) for x in (self.value, self.steps))
        return loss * self.value

    def unscale(self, gradients: list[Tensor]) -> None:
        """Divide gradients by the scale, in place; the quotient by a power of 2 is exact."""
        torch._foreach_mul_(gradients, 1 / self.value)

    def update(self, bad_forward: Tensor, bad_gradient: Tensor) -> Tensor:
        """Change the scale after an update of the weights.

        Args:
            bad_forward: boolean, whether the forward pass had values that are not finite: then the
                scale stays.
            bad_gradient: boolean, whether a gradient was not finite: then the scale is reduced.

        Returns:
            Tensor: boolean, whether the scale was reduced. At its smallest it cannot be.
        """
        reduce = bad_gradient & ~bad_forward & (self.value > SMALLEST)
        grow = ~bad_gradient & (self.steps + 1 == GROWTH_INTERVAL)
        factor = torch.where(reduce, BACKOFF, torch.where(grow, GROWTH, 1.0))
        # in place, as a captured update reads the same memory again and again
        self.value.mul_(factor).clamp_(min=SMALLEST)
        steps = torch.where(reduce | grow, 0, self.steps + 1)
        self.steps.copy_(torch.where(bad_forward | bad_gradient & ~reduce, self.steps, steps))
        return reduce

    def state_dict(self) -> dict[str, float | int]:
        """Return the scale and its steps as numbers, for which the host waits."""
        return {'value': float(self.value), 'steps': int(self.steps)}

    def load_state_dict(self, state: dict[str, float | int]) -> None:
        """Go on from what :meth:`state_dict` returned."""
        self.value.fill_(state['value'])
        self.steps.fill_(state['steps'])

"""The private copy of the teacher that joint training tunes: only its top layers change, so what lies below them is a constant."""

from __future__ import annotations

import copy

from torch import Tensor, nn
from transformers import PreTrainedModel

from kdsearch.api import LOGITS, Batch, Need, Outputs, Signal, TeacherTuning
from kdsearch.teacher.encoder import ANATOMY, Encoder


class _Given(nn.Module):
    """Stands where the embeddings stood, and gives the state that the frozen layers would have made."""

    def __init__(self) -> None:
        super().__init__()
        self.state: Tensor | None = None

    def forward(self, *_: object, **__: object) -> Tensor:
        assert self.state is not None
        return self.state


def split_state(layers: int, tuning: TeacherTuning) -> Need:
    """The highest state that tuning leaves constant, which can be cached. layers: the teacher's."""
    return Need(Signal.HIDDEN, max(0, layers - tuning.layers))


class PrivateTeacher(nn.Module):
    """A copy of the teacher whose top layers and head have gradients. In eval mode throughout: dropout would make its word noisy.

    Attributes:
        full: the whole copy, for texts whose states are not at hand.
        tuned: the modules that are trained.
        head: the last of them, the linear map to the logits.
    """

    def __init__(self, shared: PreTrainedModel, tuning: TeacherTuning) -> None:
        super().__init__()
        model = copy.deepcopy(shared)
        anatomy = ANATOMY[model.config.model_type]
        layers = model.get_submodule(anatomy.layers)
        assert isinstance(layers, nn.ModuleList)
        kept = list(layers[max(0, len(layers) - tuning.layers) :])
        self.tuned = nn.ModuleList([*kept, *(model.get_submodule(name) for name in anatomy.head)])
        head = self.tuned[-1]
        assert isinstance(head, nn.Linear)
        self.head = head
        for part in self.tuned:
            part.requires_grad_(True)
        self.full = Encoder(model)
        # The same tuned modules in a model without the rest: one set of weights, two ways in.
        top = copy.deepcopy(model, {id(part): part for part in self.tuned})
        base = top.get_submodule(anatomy.base)
        self._given = _Given()
        base.embeddings = self._given
        if "embeddings_project" in dict(base.named_children()):
            base.embeddings_project = nn.Identity()
        holder, _, leaf = anatomy.layers.rpartition(".")
        setattr(top.get_submodule(holder), leaf, nn.ModuleList(kept))
        self._top = Encoder(top)
        self.eval()

    def train(self, mode: bool = True) -> PrivateTeacher:
        return super().train(False)

    def forward(self, batch: Batch, needs: tuple[Need, ...] = (LOGITS,)) -> Outputs:
        return self.full(batch, needs)

    def from_state(self, batch: Batch, state: Tensor) -> Outputs:
        """The logits, from the state below the tuned layers.

        state: (B, S, H), the one that `split_state` names; its values at padding are ignored.
        """
        self._given.state = state
        return self._top(batch, (LOGITS,))

"""Our optimisers compute what torch's do, but they do not import torch's compiler."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from patchcore.config.run import OptimConfig
from patchcore.training.optim import make_optimizer

PEERS: dict[str, Any] = {
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=1e-2, fused=True),
    "sgd": lambda groups: torch.optim.SGD(groups, lr=1e-2, momentum=0.9, nesterov=True),
}


def step(network: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    generator = torch.Generator().manual_seed(number)
    optimizer.zero_grad(set_to_none=True)
    network(torch.randn(3, 4, generator=generator)).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("kind", PEERS)
def test_steps_and_states_are_torchs(kind: str) -> None:
    ours = nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 2))
    theirs = copy.deepcopy(ours)
    config = OptimConfig(optimizer="adamw" if kind == "adamw" else "sgd", lr=1e-2, momentum=0.9)
    optimizer = make_optimizer(ours, config)
    decay = optimizer.param_groups[0]["weight_decay"]

    def peer_of(network: nn.Module) -> Any:
        matrices = [one for one in network.parameters() if one.ndim > 1]
        others = [one for one in network.parameters() if one.ndim == 1]
        return PEERS[kind]([{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}])

    peer = peer_of(theirs)
    for number in range(6):
        if number == 3:
            # Both continue with the state of the other.
            states = [copy.deepcopy(one.state_dict()) for one in (peer, optimizer)]
            optimizer, peer = make_optimizer(ours, config), peer_of(theirs)
            for one, state in zip((optimizer, peer), states, strict=True):
                one.load_state_dict(state)
        step(ours, optimizer, number)
        step(theirs, peer, number)
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(one, other)
    assert not any(
        one.requires_grad for state in optimizer.state.values() for one in state.values() if torch.is_tensor(one)
    )


def test_a_step_does_not_import_the_compiler() -> None:
    script = (
        "import sys, torch\n"
        "from patchcore.config.run import OptimConfig\n"
        "from patchcore.training.optim import make_optimizer\n"
        "network = torch.nn.Linear(2, 2)\n"
        "for kind in ('adamw', 'sgd'):\n"
        "    optimizer = make_optimizer(network, OptimConfig(optimizer=kind))\n"
        "    optimizer.zero_grad()\n"
        "    network(torch.ones(1, 2)).sum().backward()\n"
        "    optimizer.step()\n"
        "    optimizer.load_state_dict(optimizer.state_dict())\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

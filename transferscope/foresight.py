"""What a study will be refused, said before the hours of tuning that come first."""

from __future__ import annotations

from collections.abc import Sequence

import transformers

from transferscope import needs, pairing
from transferscope.errors import IndicatorInputError
from transferscope.loading import ask, find_source, quiet
from transferscope.quantization import declared, refusal
from transferscope.workspace import Workspace


def refused_predictivity(workspace: Workspace) -> str | None:
    """Why there will be no predictivity of a study's model, by settings and configuration; None: there will.

    Only the model's configuration is read. Raises BackboneError where it cannot be.
    """
    settings = workspace.settings
    kind = settings.model.quantization or _declared(workspace)
    return refusal(settings.model.name, kind, settings.signatures.quantized)


def refused_ahead(workspace: Workspace, tasks: Sequence[str]) -> str | None:
    """`refused_predictivity`, as long as one of these tasks with data has no signature yet."""
    ahead = [name for name in tasks if workspace.settings.tasks[name].has_data]
    if all(workspace.study.signature_file(name).is_file() for name in ahead):
        return None
    return refused_predictivity(workspace)


def _declared(workspace: Workspace) -> str | None:
    name = workspace.model_name
    with quiet():
        asked = transformers.PreTrainedConfig.get_config_dict, find_source(name)
        fields, _ = ask(name, *asked, revision=workspace.settings.model.revision)
    return declared(fields.get("quantization_config"))


def refuse_indicators(workspace: Workspace, reason: str) -> None:
    """Raises IndicatorInputError: the study names indicators that read predictivity, which is refused."""
    named = workspace.settings.indicators or ()
    lost = [
        name for name in named if not pairing.concerns(name) and "predictivity" in needs.record(name).needs
    ]
    if lost:
        raise IndicatorInputError(
            f"the study's indicators {', '.join(lost)} read predictivity, and there will be {reason}"
        )

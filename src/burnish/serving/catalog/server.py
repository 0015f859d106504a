"""The server's part of an installation: the models that answer requests, and an orderly end."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from burnish.errors import ModelError, RecipeError, UserError
from burnish.evaluation.graders import GradingError
from burnish.evaluation.graders.sandbox import sweep
from burnish.inference.lengths import TooLongError
from burnish.models.load import DeviceChoice, load_tokenizer
from burnish.models.registry import BUILT_IN, resolve
from burnish.models.stop_tokens import missing_stop_token, stop_token_setting
from burnish.serving.catalog.registry import (
    EMBEDDER,
    ModelRegistry,
    Open,
    open_in_process,
    open_on_vllm,
    with_model_settings,
)
from burnish.serving.state import models
from burnish.serving.state.installation import Service, Settings, open_service


@dataclass(slots=True)
class Server(Service):
    """What every route finds in `request.app.state.service`."""

    engines: ModelRegistry

    def embedder(self, texts: Sequence[str]) -> list[list[float]]:
        """Return the embeddings of texts, by which graders compare meanings.

        Raises:
            GradingError: a text is longer than the encoder's context.
        """
        found = self.engines.embedder(self.engines.embedders[0])
        try:
            rows = [found.encoded(text) for text in texts]
        except TooLongError as error:
            message = (
                f"a text has more than {error.least} tokens, the most that {EMBEDDER} can read"
            )
            raise GradingError("other_error", message) from error
        if (longest := max(map(len, rows))) > found.context:
            message = (
                f"a text has {longest} tokens, more than the context of {EMBEDDER}, {found.context}"
            )
            raise GradingError("other_error", message)
        return found.embed(rows)

    def drain(self, seconds: float | None = None) -> None:
        """Finish the running answers within `seconds`, then close everything."""
        self.engines.close(seconds)
        self.close()


def open_server(
    settings: Settings,
    url: str | None = None,
    device: DeviceChoice = "auto",
    opened: Open | None = None,
) -> Server:
    """Open the installation in the settings' folder with its models; no model is loaded yet.

    `opened` opens a base where it is not computed in this process.

    Raises:
        UserError: the database cannot be opened, or a base has the name of an alias.
    """
    sweep()
    service = open_service(settings, url)
    if hidden := {row.name for row in models.aliases(service.database)} & {
        *settings.models,
        *settings.embedders,
    }:
        service.close()
        raise UserError(
            f"{min(hidden)!r} cannot be the name of a base model, since it is an alias here",
            f"choose another name, or remove the alias with `burnish alias {min(hidden)}=`",
            code="name_is_alias",
            name=min(hidden),
        )
    opening = opened or open_in_process(device)
    if settings.stops or settings.thinking is not None:
        opening = with_model_settings(settings.stops, opening, thinking=settings.thinking)
    engines = ModelRegistry(
        service.database, settings.folder, settings.models, device, opening, settings.embedders
    )
    return Server(settings, service.database, service.content, engines)


def model_warnings(settings: Settings) -> list[str]:
    """Return a sentence for each base model that cannot be served, or whose answers would run on.

    A model that cannot be served is refused when a request names it; the others are served.

    Raises:
        ModelError: no model can be served.
        RecipeError: a token of the settings is not one of a model.
    """
    problems = _unreadable_models(settings)
    usable = {name: base for name, base in settings.models.items() if name not in problems}
    if problems and not usable.keys() - {EMBEDDER}:
        name, error = next(iter(problems.items()))
        raise error.within(f"the model {name} cannot be served: ")
    sentences = [f"{name} cannot be served: {error}" for name, error in problems.items()]
    return sentences + models_without_stop_token(replace(settings, models=usable))


def _unreadable_models(settings: Settings) -> dict[str, ModelError]:
    """The base models whose folder cannot be used, with the reason."""
    problems = {}
    for name, base in settings.models.items():
        if base not in BUILT_IN:
            try:
                load_tokenizer(resolve(base))
            except ModelError as error:
                problems[name] = error
    return problems


def models_without_stop_token(settings: Settings) -> list[str]:
    """Return a sentence for each base model that does not stop at the token with which its chat
    template ends an answer, so that answers would run on.

    Raises:
        RecipeError: a token of the settings is not one of a model.
    """
    result = []
    for name, base in settings.models.items():
        if base in BUILT_IN and not settings.stops:  # it may have to be downloaded first
            continue
        source = resolve(base)
        try:
            tokenizer = load_tokenizer(source, settings.stops)
        except RecipeError as error:
            raise error.within(f"for the model {name}, ") from error
        if (end := missing_stop_token(source, tokenizer)) is not None:
            setting = stop_token_setting(end, tokenizer)
            result.append(
                f"{name} does not stop at {setting}, the end of an answer in its chat template: "
                f'add --set "model_settings.stop_tokens=[{setting}]"'
            )
    return result


def base_opener(settings: Settings, backend: str, vllm_url: str | None = None) -> Open | None:
    """Return the function that opens base models for the chosen backend; None opens them in this
    process.

    Raises:
        UserError: no URL of vLLM is given, one is given for nothing, or there is not one base.
    """
    if backend != "vllm":
        if vllm_url:
            raise UserError(
                f"--vllm-url is {vllm_url}, but the backend is {backend}",
                "add --backend vllm",
                code="option_unused",
                option="--vllm-url",
                value=vllm_url,
            )
        return None
    if not vllm_url:
        raise UserError(
            "--backend is vllm, but --vllm-url is missing",
            "add --vllm-url URL, the URL of the vLLM server",
            code="vllm_without_url",
        )
    bases = [name for name in settings.models if name != EMBEDDER]
    if len(bases) != 1:
        raise UserError(
            f"a vLLM server has one base model, not {len(bases)} ({', '.join(bases)})",
            "choose the vLLM server's base model with --model NAME=SOURCE",
            code="not_one_model",
            models=bases,
        )
    return partial(open_on_vllm, vllm_url)

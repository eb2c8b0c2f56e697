# SPDX-License-Identifier: Apache-2.0
"""An ingot as a model of lm-evaluation-harness (the extra `eval`).

Importing this module registers the model "ingot":

    import lm_eval, ingot_compressor.harness
    lm_eval.simple_evaluate(model="ingot", model_args="path=smol.ingot", tasks=["arc_easy"])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ingot import Model
from ingot.chat import render
from ingot.errors import InvalidArgumentError, MissingExtraError
from ingot.generation import Options
from ingot.sampling import Sampling
from ingot.session import Session
from ingot_compressor.evaluation.likelihood import Likelihood, Request
from ingot_compressor.evaluation.native_scorer import file_scorer
from ingot_compressor.evaluation.tasks import TextEncoder

try:
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
except ImportError as error:
    raise MissingExtraError(
        "the harness adapter needs lm-evaluation-harness: pip install 'ingot[compress,eval]'"
    ) from error

__all__ = ["IngotLM", "rolling_requests"]

DEFAULT_TOKENS = 256
# The names that the harness and its tasks use for one figure.
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
KNOWN = (*LENGTHS, *SAMPLING, "until", "do_sample", "seed")


@register_model("ingot")
class IngotLM(LM):  # type: ignore[misc]
    """A file in the native runtime, as the harness drives it.

    `sessions` of one thread each score at the same time, by default one per CPU; `threads` are
    those of generation. The harness's batch_size, max_batch_size and device say nothing here and
    are taken to be left alone.
    """

    def __init__(
        self,
        path: str,
        sessions: int = 0,
        threads: int = 0,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
    ) -> None:
        """Raises: FormatError, StorageError as Model; StateError for a file without tokenizer."""
        super().__init__()
        self.model = Model(path)
        info = self.model.info
        self.encoder = TextEncoder.of_file(self.model.tokenizer, self.model.chat, info.context)
        self._score = file_scorer(self.model, info.vocabulary, sessions)
        self._threads = threads

    def close(self) -> None:
        """Let the file go."""
        self.model.close()

    def loglikelihood(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Return for (context, continuation) the log-likelihood, and whether greedy gives it."""
        scored = self._scored([self.encoder.request(*one.args) for one in requests])
        found = [(one.total, one.greedy) for one in scored]
        for request, result in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, result)
        return found

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Return the log-likelihood of whole texts, each token scored once."""
        parts = [rolling_requests(self.encoder, one.args[0]) for one in requests]
        scored = iter(self._scored([window for part in parts for window in part]))
        found = [sum(next(scored).total for _ in part) for part in parts]
        for request, result in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, result)
        return found

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return what follows each context up to a stop string, which is left out.

        Greedy unless the request has do_sample. A context too long loses its beginning.
        Raises: InvalidArgumentError for a setting that is not known.
        """
        found = []
        with self.model.session(threads=self._threads) as session:
            for request in requests:
                context, settings = request.args
                session.reset()
                found.append(self._generate(session, context, settings))
                self.cache_hook.add_partial("generate_until", request.args, found[-1])
        return found

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Return the prompt of a conversation by the file's template."""
        return render(self.model.chat, chat_history, add_generation_prompt)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Return the file's template, "" where none is asked for."""
        return self.model.chat_template if chat_template else ""

    @property
    def tokenizer_name(self) -> str:
        """What the harness names its cache of requests after: the file."""
        return self.model.path.name

    def _scored(self, requests: Sequence[Request]) -> list[Likelihood]:
        return self._score(requests, lambda done: None)

    def _generate(self, session: Session, context: str, settings: Mapping[str, Any]) -> str:
        strange = [key for key in settings if key not in KNOWN]
        if strange:
            raise InvalidArgumentError(
                f"generation setting '{strange[0]}' is not known; known are {', '.join(KNOWN)}"
            )
        wanted = next((int(settings[key]) for key in LENGTHS if settings.get(key)), DEFAULT_TOKENS)
        most = min(wanted, session.context // 2)
        prompt = self.encoder.prompt(context)[-(session.context - most) :]
        until = settings.get("until") or ()
        stop = (until,) if isinstance(until, str) else tuple(until)
        options = Options(most, _sampling(settings), tuple(text for text in stop if text))
        return session.begin(prompt, options).result().text


def _sampling(settings: Mapping[str, Any]) -> Sampling:
    """Return how tokens are drawn: greedily unless do_sample is set."""
    if not settings.get("do_sample"):
        return Sampling()
    return Sampling(
        temperature=float(settings.get("temperature", 1.0)),
        top_k=int(settings.get("top_k", 0)),
        top_p=float(settings.get("top_p", 1.0)),
        min_p=float(settings.get("min_p", 0.0)),
        repetition_penalty=float(settings.get("repetition_penalty", 1.0)),
        seed=int(settings.get("seed", 0)),
    )


def rolling_requests(encoder: TextEncoder, text: str) -> list[Request]:
    """Cut a text into requests that score each token once, with the context full where it can be.

    The first token follows the file's own beginning; without one it is not scored. Empty for a text
    of no tokens.
    Source: lm-evaluation-harness, utils.get_rolling_token_windows with a context of one token.
    """
    ids = encoder.tokenizer.encode(text, begin=False)
    if encoder.begin is not None:
        ids = [encoder.begin, *ids]
    found, at = [], 1
    while at < len(ids):
        end = min(at + encoder.context, len(ids))
        first = max(end - 1 - encoder.context, 0)
        found.append(Request(tuple(ids[first:at]), tuple(ids[at:end])))
        at = end
    return found

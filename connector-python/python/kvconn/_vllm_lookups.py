"""The lookups of vLLM's requests. One question to the store holds all lookups of a scheduler step."""

from __future__ import annotations

from collections.abc import Iterable

# Key -> whether the store has it. None while the answer is not known.
_Answers = dict[bytes, "bool | None"]


class Lookups:
    """The answers of each request, and the questions that wait for an answer.

    An answer belongs to the requests that asked, and ends with them: another request asks again. All calls come from one thread at a time.
    """

    def __init__(self) -> None:
        self._requests: dict[str, _Answers] = {}
        # Keys of the next question, and the requests that wait for each.
        self._next: dict[bytes, list[_Answers]] = {}
        # The same for the questions under way.
        self._asked: dict[bytes, list[_Answers]] = {}
        self._questions: dict[int, list[bytes]] = {}
        self._tag = 0

    def ask(self, key: bytes, request: str) -> bool | None:
        """Whether the store has the key, or None if the next question asks for it or one under way does."""
        answers = self._requests.get(request)
        if answers is None:
            answers = self._requests[request] = {}
        try:
            return answers[key]
        except KeyError:
            answers[key] = None
        waiting = self._asked.get(key)
        if waiting is None:
            waiting = self._next.setdefault(key, [])
        waiting.append(answers)
        return None

    def question(self) -> tuple[int, list[bytes]] | None:
        """The next question: its tag and its keys, each once. None if no request has asked anything new."""
        if not self._next:
            return None
        self._tag += 1
        keys = list(self._next)
        self._asked.update(self._next)
        self._questions[self._tag] = keys
        self._next = {}
        return self._tag, keys

    def answer(self, tag: int, present: bytes) -> None:
        """The answer to a question: one byte for each of its keys, 1 if the store has it."""
        for key, found in zip(self._questions.pop(tag), present, strict=True):
            for answers in self._asked.pop(key):
                # A failed load may have answered first.
                if answers[key] is None:
                    answers[key] = bool(found)

    def missed(self, request: str, keys: Iterable[bytes]) -> None:
        """Makes these keys misses of the request, because their load failed."""
        answers = self._requests.get(request)
        if answers is not None:
            answers.update(dict.fromkeys(keys, False))

    def finish(self, request: str) -> None:
        """Forgets the request, which has ended. An answer that arrives later has no effect."""
        self._requests.pop(request, None)

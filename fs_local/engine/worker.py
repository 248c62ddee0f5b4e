"""The engine's turn: one part of one prompt, then one token of every sequence that decodes. On the engine's thread alone.

    admit a waiting request; match its prompt with the prefix cache
    evaluate the next part of the prompt that is being prefilled: read rows and decide; add what steers them
    decode one token of all the others; each row gets what its sequence is steered by; sample each by its own sampler

A prompt is never evaluated in one decode with anything else, and decodes of tokens have at most 63 rows, so that the sums of a prompt's
states are those of the prompt alone (`Cells` says what else that takes).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence

from fs_local.arrays import F32
from fs_local.engine.cells import SINGLE, TILE, Cells
from fs_local.engine.packs import Packs
from fs_local.engine.prefill import Prefill
from fs_local.engine.prefix_cache import PrefixCache
from fs_local.engine.scoring import Scoring
from fs_local.engine.sequences import NotFinite
from fs_local.engine.sequences import Sequence as Work
from fs_local.engine.stream import Bell
from fs_local.engine.vocabulary import Vocabulary
from fs_local.errors import ContextFullError, FitError
from fs_local.runtime.context import Context

MOST_AT_ONCE = TILE - 1


class Worker:
    """The context and everything in it.

    Args:
        n_seq: requests that are worked on at once.
        n_spare: further sequences, for the prefix cache and for answers that are scored.
        packs: gives the packs of this moment.

    Attributes:
        bell: rung once a turn, when pieces of answers stand in the streams, so that readers wake up.
        evaluated, reused: tokens of prompts; generated: tokens drawn; evicted: how often a sequence had to make room.
    """

    def __init__(self, context: Context, n_seq: int, n_spare: int, packs: Callable[[], Packs]) -> None:
        self._context, self._n_seq, self._packs, self.bell = context, n_seq, packs, Bell()
        self._limit = min(context.n_ctx, context.model.n_ctx_train)
        self._cells = Cells(context)
        self._vocabulary = Vocabulary(context.model)
        self._free = list(range(n_seq + n_spare))
        self._cache = PrefixCache(self._cells, self._free.append, context.n_ctx)
        self._waiting: list[tuple[tuple[int, int], Work]] = []
        self._prefilling: Work | None = None
        self._decoding: list[Work] = []
        self._may_admit = False
        self._added_for: list[Work] | None = None  # whose additions the context has
        self.evaluated = self.reused = self.generated = self.evicted = 0

    @property
    def n_waiting(self) -> int:
        return len(self._waiting)

    @property
    def n_at_work(self) -> int:
        return len(self._at_work)

    @property
    def _at_work(self) -> list[Work]:
        return [*self._decoding, *([self._prefilling] if self._prefilling else [])]

    @property
    def is_idle(self) -> bool:
        return not (self._waiting or self._decoding or self._prefilling)

    @property
    def cells_used(self) -> int:
        return self._cells.used

    @property
    def n_kept(self) -> int:
        """Beginnings that later requests may use."""
        return len(self._cache)

    def add(self, work: Work) -> None:
        """Takes a request into the queue."""
        heapq.heappush(self._waiting, (work.precedence, work))
        self._may_admit = True

    def forget(self, zero: bool = False) -> None:
        """Empties the cells; nothing may be at work. zero: whether what they held is overwritten with zeros."""
        self._cache.forget()
        self._cells.clear(zero)

    def turn(self) -> None:
        """Parts of prompts, together no longer than one part may be, and one token of every other sequence.

        Short prompts that came together so begin to be answered together: a step of few costs almost what one of many does. First tokens
        are told before that step."""
        self._drop_cancelled()
        room = self._cells.part_size
        while (work := self._next_prompt()) is not None and (rows := self._next_rows(work)) <= room:
            room -= rows
            self._guarded(work, self._prefill)
            self._drop_cancelled()
        if work is not None and work.prefill is not None and not work.prefill.evaluated:
            self._put_back(work)  # else tokens of others would come to stand behind what it begins with
            self._may_admit = True
        self.bell.ring()
        if self._decoding:
            self._decode()
            self.bell.ring()

    def _next_prompt(self) -> Work | None:
        """The one that is evaluated, or the next that can be."""
        while self._prefilling is None and self._waiting and self._may_admit:
            self._admit()
        return self._prefilling

    def _next_rows(self, work: Work) -> int:
        """How much of a turn its next step is: scores take one, however short they are."""
        return self._cells.part_size if work.prefill is None or work.scoring is not None else work.prefill.next_rows

    def close(self, error: BaseException) -> None:
        """Ends all streams with an error, and frees everything."""
        for work in [*self._at_work, *(w for _, w in self._waiting)]:
            work.mailbox.put(error)
            work.close()
        self._decoding, self._prefilling, self._waiting = [], None, []
        self.bell.ring()
        self._context.close()

    # --- who is worked on

    def _drop_cancelled(self) -> None:
        for work in [w for w in self._decoding if w.mailbox.cancelled]:
            self._end(work)
        if self._prefilling is not None and self._prefilling.mailbox.cancelled:
            self._end(self._prefilling)
        if any(w.mailbox.cancelled for _, w in self._waiting):
            for _, work in self._waiting:
                if work.mailbox.cancelled:
                    work.close()
            self._waiting = [at for at in self._waiting if not at[1].mailbox.cancelled]
            heapq.heapify(self._waiting)
            self._may_admit = True

    def _admit(self) -> None:
        """Takes up the first of the queue, if there is room for it."""
        work = self._waiting[0][1]
        alone = work.request.steer.exact or any(w.request.steer.exact for w in self._decoding)
        if len(self._decoding) >= self._n_seq or (alone and self._decoding):
            self._may_admit = False
            return
        heapq.heappop(self._waiting)
        self._guarded(work, self._take_up)

    def _take_up(self, work: Work) -> None:
        prompt, steer = work.request.prompt, work.request.steer
        if len(work.tokens) >= self._limit:
            raise ContextFullError(
                f"the prompt has {len(prompt.tokens)} tokens, and the context {self._limit}, which must hold the answer too; "
                "shorten it or raise --ctx"
            )
        if work.chosen is None:
            work.chosen = self._packs().chosen(steer)
            work.begin()
            if steer.given is not None:
                work.decided(list(steer.given))
        known, only_decide = work.decisions, work.request.max_tokens == 0 and not work.request.answers
        if only_decide and (known is not None or not work.chosen.packs):
            work.finish("stop")
            self._end(work)
            return
        most = len(work.tokens) - 1
        if known is None:
            most = min(most, work.chosen.reads_from(prompt))
        elif work.first_steered is not None:
            most = min(most, work.first_steered)
        self._cells.settle()
        if steer.exact:  # then nothing else is at work
            self.forget()
        self._prefilling, work.seq = work, self._lend(1)[0]
        cached = 0
        if self._context.model.can_roll_back:
            cached = self._cache.begin(work.seq, work.tokens, most, self._unsteered())
        rows = len(work.tokens) - cached
        while self._cells.free < rows + len(self._decoding) + 1 and self._cache.put_oldest_away():
            pass
        if self._decoding and self._cells.free < rows + len(self._decoding) + 1:
            self._put_back(work)
            return
        if known is None:
            work.cached = cached
        work.prefill = Prefill(
            self._context, self._cells, work.seq, prompt, work.tokens, cached, work.chosen, known, only_decide
        )

    def _unsteered(self) -> list[tuple[int, Sequence[int]]]:
        """Sequences that decode, with the tokens of their unsteered cells."""
        return [(w.seq, w.tokens[: w.first_steered]) for w in self._decoding]

    def _end(self, work: Work, error: BaseException | None = None) -> None:
        """Lets a request go; what of it is unsteered stays for later ones."""
        if error is not None:
            work.mailbox.put(error)
        work.close()
        if work.seq >= 0:
            kept = work.useful_cells(self._cells.length(work.seq))
            self._release(work, kept if not isinstance(error, (NotFinite, FitError)) else 0)

    def _release(self, work: Work, kept: int) -> None:
        if not self._context.model.can_roll_back:  # a recurrent state can't be shared in part
            kept = 0
        if self._cells.remove(work.seq, kept) and kept:
            self._cache.keep(work.seq, work.tokens[:kept])
        else:
            self._free.append(work.seq)
        self._leave(work)

    def _leave(self, work: Work) -> None:
        if work is self._prefilling:
            self._prefilling = None
        elif work in self._decoding:
            self._decoding.remove(work)
        self._added_for = None
        self._may_admit = True
        work.seq, work.prefill, work.scoring = -1, None, None

    def _put_back(self, work: Work) -> None:
        """Makes a request wait again, with all that it has drawn; it is tried again when another one has gone."""
        self._give_back(work.seq)
        self._leave(work)
        self.add(work)
        self._may_admit = False

    def _guarded(self, work: Work, do: Callable[[Work], None]) -> None:
        """What goes wrong with one request ends that one."""
        try:
            do(work)
        except Exception as error:
            self._end(work, error)
            if isinstance(error, (NotFinite, FitError)):
                self._start_afresh()

    def _start_afresh(self) -> None:
        """Empties all cells, since some may hold what is no number, and spoils others' sums; everybody is prefilled again."""
        for work in self._at_work:
            self._put_back(work)
        self.forget(zero=True)
        self._may_admit = True

    # --- sequences and cells

    def _lend(self, n: int) -> list[int]:
        """Up to `n` sequences that are not in use, at least one."""
        while len(self._free) < n and self._cache.put_oldest_away():
            pass
        return [self._free.pop() for _ in range(min(n, len(self._free)))]

    def _give_back(self, seq: int) -> None:
        self._cells.remove(seq)
        self._free.append(seq)

    # --- steps

    def _prefill(self, work: Work) -> None:
        if work.scoring is not None:
            self._score(work)
            return
        prefill = work.prefill
        assert prefill is not None
        if not work.n_drawn and SINGLE not in self._cells.kinds(work.seq):  # else there are no bits to keep
            while not (aligned := self._cells.aligned(work.seq, prefill.next_rows)) and self._cache.put_oldest_away():
                pass
            if not aligned and self._decoding:
                self._put_back(work)
                return
            if not aligned and self._cells.begins_at(work.seq) > 0:
                # alone, and its own first part stands where the next has no room: from the beginning, in an empty pool
                self._put_back(work)
                self.forget()
                self._may_admit = True
                return
        self._added_for = None
        before, begun = prefill.evaluated, self._cells.length(work.seq)
        try:
            prefill.step()
        except ContextFullError:
            if not self._has_made_room(work):
                raise
            return
        finally:
            self._cells.settle()
            self.evaluated += prefill.evaluated - before
            self.reused += begun if prefill.evaluated and not before else 0
        if work.decisions is None and prefill.is_decided:
            work.decided(prefill.decisions)
        if prefill.is_done:
            work.cached = min(work.cached, prefill.start)  # a second pass evaluates again what was taken and is steered
            self._prompted(work)

    def _prompted(self, work: Work) -> None:
        request = work.request
        work.prompted()
        if request.answers:
            work.scoring = Scoring(
                self._context, self._cells, work.seq, request.answers, work.additions, request.keep_logits
            )
            if work.scoring.is_done:
                self._scored(work)
        elif request.max_tokens == 0:
            work.finish("stop")
            self._end(work)
        elif self._draw(work, -1):
            self._prefilling, work.prefill = None, None
            self._decoding.append(work)
            self._may_admit = True

    def _score(self, work: Work) -> None:
        assert work.scoring is not None
        self._added_for = None
        try:
            work.scoring.step(self._lend, self._give_back)
        except ContextFullError:
            if not self._has_made_room(work):
                raise
            return
        if work.scoring.is_done:
            self._scored(work)

    def _scored(self, work: Work) -> None:
        assert work.scoring is not None
        work.finish("stop", scores=work.scoring.scores, logits=work.scoring.logits)
        self._end(work)

    def _decode(self) -> None:
        """One token of every sequence that decodes."""
        batch = list(self._decoding)
        try:
            self._step(batch)
        except ContextFullError:
            self._make_room()
        except Exception:
            for work in batch:  # whose fault it is shows when each is alone
                if work.seq >= 0:
                    self._guarded(work, lambda w: self._step([w]))
                if work.seq >= 0:
                    self._draw(work, 0)
        else:
            for row, work in enumerate(batch):
                if work.seq >= 0:  # else it had to make room for what went before it here
                    self._draw(work, row)

    def _step(self, batch: list[Work]) -> None:
        if self._added_for != batch:
            runs: dict[int, list[tuple[int, int, F32]]] = {}
            for row, work in enumerate(batch):
                for layer, vector in work.additions.items():
                    runs.setdefault(layer, []).append((row, 1, vector))
            if len(batch) == 1:
                self._context.add_to_all(batch[0].additions)
            else:
                self._context.add_to_rows(runs)
            self._added_for = batch
        self._cells.step([w.tokens[-1] for w in batch], [len(w.tokens) - 1 for w in batch], [w.seq for w in batch])

    def _draw(self, work: Work, row: int) -> bool:
        """Draws a token from an output of the last decode; whether the answer goes on."""
        ended = False

        def draw(work: Work) -> None:
            nonlocal ended
            ended = work.draw(self._context, row, self._vocabulary, self._limit) is not None

        before = work.n_drawn
        self._guarded(work, draw)
        self.generated += work.n_drawn - before
        if ended:
            self._end(work)
        return work.seq >= 0

    def _has_made_room(self, work: Work) -> bool:
        """After a prompt found no cells: gives up what is kept, else lets the prompt wait for those who decode; False if there are none."""
        if not self._cache.put_oldest_away():
            if not self._decoding:
                return False
            self._put_back(work)
        return True

    def _make_room(self) -> None:
        """After the cells were used up: gives up what is kept, else the newest sequence, which is prefilled again later."""
        self._cells.settle()
        if self._cells.free >= len(self._decoding) or self._cache.put_oldest_away():
            return
        if len(self._at_work) == 1:
            self._decoding[0].finish("context")
            self._end(self._decoding[0])
            return
        self.evicted += 1
        self._put_back(max(self._at_work, key=lambda w: w.precedence))

"""A model of PostgreSQL's transaction ids and snapshots."""

from dataclasses import dataclass, field


@dataclass
class Transaction:
    """A transaction with an id, and the outbox ids it took."""

    xid: int
    ids: list[int] = field(default_factory=list)
    #: Whether it will notify at commit.
    rings: bool = False


@dataclass
class Postgres:
    """A cluster with an outbox."""

    next_xid: int = 100
    next_id: int = 1
    newest_ended_xid: int = 99
    open: list[Transaction] = field(default_factory=list)
    visible: set[int] = field(default_factory=set)
    committed: set[int] = field(default_factory=set)

    def begin(self) -> None:
        self.open.append(Transaction(self.next_xid))
        self.next_xid += 1

    def pick(self, which: int) -> Transaction | None:
        return self.open[which % len(self.open)] if self.open else None

    def insert(self, which: int) -> None:
        if transaction := self.pick(which):
            transaction.ids.append(self.next_id)
            self.next_id += 1

    def end(self, which: int, *, commit: bool) -> Transaction | None:
        """End a transaction and return it."""
        if (ended := self.pick(which)) is None:
            return None
        self.open.remove(ended)
        self.newest_ended_xid = max(self.newest_ended_xid, ended.xid)
        if commit:
            self.visible.update(ended.ids)
            self.committed.update(ended.ids)
        return ended

    @property
    def snapshot_xmin(self) -> int:
        """The xmin of a snapshot taken now, as GetSnapshotData() computes it.

        A snapshot's xmax is one past the newest ended transaction. Younger transactions are in
        flight but do not lower its xmin.
        """
        xmax = self.newest_ended_xid + 1
        return min([xmax, *(t.xid for t in self.open if t.xid < xmax)])

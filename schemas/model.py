"""What a table is, as data: columns with types and comments, keys, constraints, versions and migrations."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        name: its name.
        type: a Spark SQL type, as DDL writes it.
        comment: what it holds, with units and range.
        nullable: whether a row may lack it.
        volatile: whether it may differ between two runs of the same work (times, hosts, durations); tables with and
            without kills are equal in all other columns.
    """

    name: str
    type: str
    comment: str
    nullable: bool = False
    volatile: bool = False

    @property
    def ddl(self) -> str:
        """The column as a clause of CREATE TABLE."""
        comment = self.comment.replace("\\", "\\\\").replace("'", "\\'")
        return f"`{self.name}` {self.type}{'' if self.nullable else ' NOT NULL'} COMMENT '{comment}'"


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the lakehouse.

    Attributes:
        name: its name within the schema.
        grain: what one row is.
        owner: the step or command that writes it.
        key: columns that identify a row.
        columns: all columns, in order.
        checks: CHECK constraints, name to SQL.
        partitioned_by: partition columns.
        version: raised when columns are added; see `added`.
        added: version to the names of the columns that it brought, which a forward migration adds.
    """

    name: str
    grain: str
    owner: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    checks: Mapping[str, str] = field(default_factory=dict)
    partitioned_by: tuple[str, ...] = ()
    version: int = 1
    added: Mapping[int, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [column.name for column in self.columns]
        if len(set(names)) != len(names):
            raise ValueError(f"table {self.name} has a column twice: {names}")
        for name in (*self.key, *self.partitioned_by):
            if name not in names:
                raise ValueError(
                    f"table {self.name} is keyed or partitioned by {name!r}, which it does not have"
                )

    @property
    def names(self) -> tuple[str, ...]:
        """Column names, in order."""
        return tuple(column.name for column in self.columns)

    @property
    def stable(self) -> tuple[str, ...]:
        """Columns that the same work always fills the same way."""
        return tuple(column.name for column in self.columns if not column.volatile)

    def column(self, name: str) -> Column:
        """The column of that name.

        Raises:
            KeyError: there is none.
        """
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(f"table {self.name} has no column {name!r}; it has {', '.join(self.names)}")

"""What can go wrong with agents."""

from pg.errors import MisterSmithError, Refused


class AgentError(MisterSmithError):
    """The root of this room's errors."""


class UnknownAgent(AgentError):
    """No agent has this id."""


class IllegalStatus(AgentError, Refused):
    """The state machine does not allow the move; nothing was changed."""


class UnknownCheckpoint(AgentError):
    """No checkpoint of this agent has this id or name."""


class StaleEpoch(AgentError, Refused):
    """The caller holds an older epoch than the agent: a successor took over. Nothing was changed."""

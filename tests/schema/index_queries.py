"""For each index of ours the query that it serves: the rooms' own functions, admin lists and commands.

Add yours: a function under `@serves("<index>", ...)` that calls the code which needs it, with rows of `Sample`. Where
no code does, no index is needed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from io import StringIO
from typing import Any
from uuid import UUID, uuid4

from django.contrib import admin
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import RequestFactory

from agents.checkpoints import find_checkpoint
from agents.models import Agent, AgentState, Checkpoint, LifecycleEvent, StateHistory
from agents.state import purge_expired_state, read_state
from knowledge.embedder import QUERIES as EMBEDDER_QUERIES
from knowledge.facts import history_of
from knowledge.models import Fact
from knowledge.search import search_text
from messaging.delivery import bury_deliveries, expire_deliveries, list_dead, take
from messaging.models import Delivery, Message, Subscription
from messaging.send import Sent, responses_to, send
from sessions.lifecycle import purge_expired, revoke_all
from sessions.models import Session
from tasks.claim import claim
from tasks.control import failed_tasks
from tasks.enqueue import QUERIES as TASKS_QUERIES
from tasks.enqueue import After, enqueue
from tasks.models import Dependency, Execution, Task, UniqueKey
from tasks.stats import count_living_workers
from tasks.sweep import cancel_expired, promote_due, take_back_leases
from tests.schema.catalog import rows


@dataclass(frozen=True)
class Sample:
    """Ids of rows of `filled.sql`. `agent` is one of 2,000 that talk, `task` has a parent, `worker` leases."""

    agent: UUID
    worker: UUID
    task: UUID
    parent: UUID
    state: UUID
    message: UUID
    correlation: UUID
    channel: UUID
    fact: UUID


@dataclass(frozen=True)
class Case:
    """What runs, and the indexes that its plans must name."""

    name: str
    indexes: tuple[str, ...]
    run: Callable[[Sample], Any]


CASES: list[Case] = []


def serves(*indexes: str) -> Callable[[Callable[[Sample], Any]], Callable[[Sample], Any]]:
    def note(run: Callable[[Sample], Any]) -> Callable[[Sample], Any]:
        CASES.append(Case(run.__name__, indexes, run))
        return run

    return note


def read_sample() -> Sample:
    query = """
    SELECT
      (SELECT r.agent_id FROM agents.registry r JOIN messages.log m ON m.to_agent_id = r.agent_id
       JOIN messages.subscriptions s ON s.agent_id = r.agent_id
       JOIN messages.channels c ON c.channel_id = s.channel_id AND c.channel_type = 'queue'
       JOIN agents.registry k ON k.parent_agent_id = r.agent_id
       WHERE r.status = 'active' ORDER BY r.agent_id LIMIT 1),
      (SELECT worker FROM tasks.queue WHERE status = 'running' LIMIT 1),
      q.task_id, q.parent_task_id,
      (SELECT state_id FROM agents.state LIMIT 1),
      m.message_id, m.correlation_id, (SELECT channel_id FROM messages.channels WHERE channel_name = 'channel 9'),
      (SELECT superseded_by FROM knowledge.facts WHERE superseded_by IS NOT NULL ORDER BY fact_id LIMIT 1)
    FROM (SELECT * FROM tasks.queue WHERE parent_task_id IS NOT NULL ORDER BY task_id LIMIT 1) q,
         (SELECT * FROM messages.log WHERE correlation_id IS NOT NULL ORDER BY message_id LIMIT 1) m
    """
    return Sample(*rows(query)[0])


def listed(model: type[Any], **filters: Any) -> list[Any]:
    """Read the first page of a model's admin list, filtered as a link or the side bar would."""
    request = RequestFactory().get("/", filters)
    request.user = User(is_superuser=True, is_staff=True, is_active=True)
    return list(admin.site.get_model_admin(model).get_changelist_instance(request).result_list)


def run(*arguments: str) -> None:
    call_command(*arguments, "--json", stdout=StringIO())


# -- agents -------------------------------------------------------------------------------------------------
@serves("idx_agents_registry_type_status")
def workers_that_live(_: Sample) -> None:
    count_living_workers()


@serves("idx_agents_registry_parent")
def children_of_an_agent(sample: Sample) -> None:
    listed(Agent, parent__exact=sample.agent)


@serves("state_pkey")
def state_of_an_agent(sample: Sample) -> None:
    read_state(sample.agent)


@serves("idx_agents_state_id")
def one_key_in_the_admin(sample: Sample) -> None:
    AgentState.objects.get(pk=sample.state)


@serves("idx_agents_state_expires")
def sweep_of_expired_keys(_: Sample) -> None:
    purge_expired_state()


@serves("idx_agents_state_history_key")
def history_of_an_agents_keys(sample: Sample) -> None:
    listed(StateHistory, agent__exact=sample.agent)


@serves("idx_agents_checkpoints_agent_created")
def newest_checkpoint(sample: Sample) -> None:
    find_checkpoint(sample.agent)


@serves("idx_agents_checkpoints_name")
def checkpoint_by_its_name(sample: Sample) -> None:
    named = Checkpoint.objects.filter(agent=sample.agent).exclude(checkpoint_name=None).first()
    find_checkpoint(sample.agent, named.checkpoint_name)


@serves("idx_agents_registry_capabilities_gin")
def agents_that_can_do_something(_: Sample) -> None:
    run("agents", "list", "--can", '{"tool": "tool-7"}')


@serves("idx_agents_lifecycle_agent")
def life_of_an_agent(sample: Sample) -> None:
    listed(LifecycleEvent, agent__exact=sample.agent)


@serves("idx_agents_lifecycle_event_type")
def errors_of_the_fleet(_: Sample) -> None:
    listed(LifecycleEvent, event_type="error")


@serves(
    "idx_agents_registry_parent",
    "idx_agents_checkpoints_agent_created",
    "idx_agents_lifecycle_triggered_by",
    "idx_tasks_queue_assigned_agent",
    "idx_tasks_queue_created_by",
    "idx_tasks_executions_agent",
    "idx_messages_log_from",
    "idx_messages_log_to",
    "idx_messages_deliveries_agent",
    "idx_sessions_active_agent",
    "idx_knowledge_facts_source",
    "one_subscription",
)
def an_agent_goes(_: Sample) -> None:
    """Every foreign key that points to it is looked at."""
    gone = uuid4()
    rows("SELECT set_config('session_replication_role', 'replica', true)")  # no history: it would stay
    Agent.objects.create(agent_id=gone, agent_type="short", agent_name="lived")
    rows("SELECT set_config('session_replication_role', 'origin', true)")
    rows("DELETE FROM agents.registry WHERE agent_id = %s RETURNING agent_id", [gone])


# -- tasks --------------------------------------------------------------------------------------------------
@serves("idx_tasks_queue_ready")
def claim_of_the_best_tasks(sample: Sample) -> None:
    assert claim("type 3", sample.worker, limit=2)


@serves("idx_tasks_queue_ready_key", "idx_tasks_starts_limit")
def claim_under_a_rate_with_keys_taking_turns(sample: Sample) -> None:
    assert claim("type 7", sample.worker, limit=2)


@serves("idx_tasks_queue_status")
def failed_tasks_the_oldest_first(_: Sample) -> None:
    assert failed_tasks(None, 100)


@serves("idx_tasks_queue_lease")
def sweep_of_lost_workers(_: Sample) -> None:
    take_back_leases()


@serves("idx_tasks_queue_assigned_agent")
def tasks_of_an_agent(sample: Sample) -> None:
    listed(Task, assigned_agent__exact=sample.agent)


@serves("idx_tasks_queue_created_by")
def tasks_that_an_agent_made(sample: Sample) -> None:
    listed(Task, created_by_agent__exact=sample.agent)


@serves("idx_tasks_queue_parent")
def children_of_a_task(sample: Sample) -> None:
    listed(Task, parent__exact=sample.parent)


@serves("idx_tasks_queue_scheduled")
def tasks_that_become_due(_: Sample) -> None:
    assert promote_due()


@serves("idx_tasks_queue_expires")
def tasks_that_nobody_started_in_time(_: Sample) -> None:
    cancel_expired()


@serves("idx_tasks_queue_payload_gin")
def tasks_that_are_about_something(_: Sample) -> None:
    run("tasks", "list", "--payload", '{"order": 777}')


@serves("idx_tasks_dependencies_depends_on")
def who_waits_for_a_task(sample: Sample) -> None:
    listed(Dependency, depends_on__exact=sample.task)


@serves("dependencies_task_id_depends_on_task_id_key")
def what_a_task_waits_for(sample: Sample) -> None:
    listed(Dependency, task__exact=sample.task)


@serves("idx_tasks_executions_task")
def attempts_of_a_task(sample: Sample) -> None:
    run("tasks", "show", str(sample.task))


@serves("idx_tasks_executions_agent")
def attempts_of_a_worker(sample: Sample) -> None:
    listed(Execution, agent__exact=sample.worker)


@serves("idx_tasks_executions_task")
def attempts_that_run(_: Sample) -> None:
    listed(Execution, status="running")


@serves("idx_tasks_unique_keys_task")
def keys_of_a_task(sample: Sample) -> None:
    listed(UniqueKey, q=sample.task)


@serves("idx_tasks_dependencies_backward")
def a_task_that_waits_for_another(sample: Sample) -> None:
    enqueue("type 3", depends_on=[After(sample.task, "resource")])


@serves("idx_tasks_unique_keys_held")
def keys_whose_time_is_over(_: Sample) -> None:
    assert TASKS_QUERIES.run("free_old_keys")


@serves("idx_tasks_resource_waiters_best")
def who_is_next_for_a_resource(_: Sample) -> None:
    TASKS_QUERIES.run("wake_waiters")


@serves(
    "idx_tasks_queue_parent",
    "idx_tasks_dependencies_depends_on",
    "idx_tasks_unique_keys_task",
    "idx_tasks_resource_holders_task",
)
def a_task_goes(sample: Sample) -> None:
    rows("DELETE FROM tasks.queue WHERE task_id = %s RETURNING task_id", [sample.task])


# -- messages -----------------------------------------------------------------------------------------------
@serves("idx_messages_log_from")
def messages_that_an_agent_sent(sample: Sample) -> None:
    listed(Message, from_agent__exact=sample.agent)


@serves("idx_messages_log_to")
def messages_that_an_agent_got(sample: Sample) -> None:
    listed(Message, to_agent__exact=sample.agent)


@serves("idx_messages_log_channel")
def messages_of_a_channel(sample: Sample) -> None:
    listed(Message, channel__exact=sample.channel)


@serves("idx_messages_log_correlation")
def answers_to_a_message(sample: Sample) -> None:
    list(responses_to(Sent(sample.message, sample.correlation, 1)))


@serves("idx_messages_subscriptions_channel")
def who_listens_to_a_channel(_: Sample) -> None:
    send({"order": 1}, channel="channel 9", subject="orders.1")


@serves("one_subscription")
def subscriptions_of_an_agent(sample: Sample) -> None:
    listed(Subscription, agent__exact=sample.agent)


@serves("idx_messages_deliveries_inbox", "idx_messages_deliveries_queue")
def what_an_agent_may_take(sample: Sample) -> None:
    assert take(sample.agent, limit=5)


@serves("idx_messages_deliveries_due")
def leases_that_ran_out(_: Sample) -> None:
    assert bury_deliveries()


@serves("idx_messages_deliveries_expires")
def deliveries_that_nobody_took(_: Sample) -> None:
    assert expire_deliveries()


@serves("idx_messages_deliveries_failed")
def dead_deliveries(_: Sample) -> None:
    assert list_dead()


@serves("idx_messages_deliveries_message")
def who_got_a_message(sample: Sample) -> None:
    listed(Delivery, message__exact=sample.message)


@serves("idx_messages_deliveries_agent")
def deliveries_of_an_agent(sample: Sample) -> None:
    listed(Delivery, agent__exact=sample.agent)


# -- sessions -----------------------------------------------------------------------------------------------
@serves("idx_sessions_active_agent")
def sessions_of_an_agent(sample: Sample) -> None:
    revoke_all(sample.agent)


@serves("idx_sessions_active_user")
def sessions_of_a_user(_: Sample) -> None:
    run("sessions", "list", "--user", "user 7")


@serves("idx_sessions_active_expires")
def purge_of_sessions(_: Sample) -> None:
    assert purge_expired()


@serves("active_pkey")
def one_session(_: Sample) -> None:
    Session.objects.filter(pk=uuid4()).first()


# -- knowledge ----------------------------------------------------------------------------------------------
@serves("idx_knowledge_facts_entity")
def history_of_an_entity(_: Sample) -> None:
    history_of("entity 7")


@serves("idx_knowledge_facts_valid_until")
def facts_that_ended(_: Sample) -> None:
    listed(Fact, holds="ended")


@serves("idx_knowledge_facts_source")
def facts_of_an_agent(sample: Sample) -> None:
    listed(Fact, source_agent__exact=sample.agent, holds="all")


@serves("idx_knowledge_facts_search_text")
def search_by_words(_: Sample) -> None:
    assert search_text("number77")


@serves("idx_knowledge_facts_sentences")
def facts_that_wait_for_a_vector(sample: Sample) -> None:
    values = {"model": "small", "version": "1", "after": UUID(int=0), "limit": 100}
    assert EMBEDDER_QUERIES.run("waiting_facts", values)


@serves("idx_knowledge_embeddings_hash")
def texts_that_have_a_vector(_: Sample) -> None:
    values = {"model": "small", "version": "1", "sentences": ["sentence 5", "sentence 6"]}
    assert EMBEDDER_QUERIES.run("known_vectors", values)


@serves("idx_knowledge_facts_superseded_by", "one_embedding_per_text")
def a_fact_goes(sample: Sample) -> None:
    rows("DELETE FROM knowledge.facts WHERE fact_id = %s RETURNING fact_id", [sample.fact])

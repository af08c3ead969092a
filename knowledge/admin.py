"""The cockpit's view of knowledge. Facts are asserted and retracted, never edited; vectors are never loaded."""

from functools import partial
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import path

from knowledge.embeddings import save_model
from knowledge.errors import BadQuery
from knowledge.facts import retract_fact
from knowledge.models import Embedding, EmbeddingModel, Fact
from knowledge.pages import search_page
from knowledge.providers import provider_names
from knowledge.search import StemmedQuery, read_words
from knowledge.stats import Progress, progress_of
from pg.admin import BigTableAdmin, ReadOnlyAdmin, Related, RoomAdmin, TimeWindowFilter, parse_uuid
from pg.errors import MisterSmithError

SHOWN_CHARACTERS = 80
EDITABLE_STATES = [
    (state.value, state.label) for state in (EmbeddingModel.State.ACTIVE, EmbeddingModel.State.PAUSED)
]


class HoldsFilter(admin.SimpleListFilter):
    """Facts that hold now, unless another choice is made."""

    title = "validity"
    parameter_name = "holds"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("ended", "Ended"), ("retracted", "Retracted"), ("all", "All")]

    def choices(self, changelist: Any) -> Any:
        rest = super().choices(changelist)
        return [{**next(rest), "display": "Holds now"}, *rest]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Fact]) -> QuerySet[Fact]:
        match self.value():
            case "all":
                return queryset
            case "ended":
                return queryset.filter(valid_until__isnull=False, retracted_at=None)
            case "retracted":
                return queryset.filter(retracted_at__isnull=False)
        return queryset.held()  # type: ignore[attr-defined, no-any-return]


@admin.register(Fact)
class FactAdmin(ReadOnlyAdmin, BigTableAdmin):
    list_display = [
        "entity_id",
        "entity_type",
        "predicate",
        "value",
        "source_agent",
        "valid_from",
        "valid_until",
    ]
    list_filter = [HoldsFilter, TimeWindowFilter]
    list_select_related = ["source_agent"]
    related = [
        Related("All of this entity", "knowledge.fact", "entity_id", "entity_id"),
        Related("Vectors", "knowledge.embedding", "fact"),
        Related("Source agent", "agents.agent", "agent_id", "source_agent_id"),
    ]
    exclude = ["search_text"]
    search_help_text = 'Words, "a phrase", -without; or paste a whole id.'
    uuid_search_fields = ("pk", "source_agent_id")
    actions = ["retract"]

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(partial(search_page, model_admin=self))
        return [path("search/", view, name="knowledge_fact_search"), *super().get_urls()]

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Fact], search_term: str
    ) -> tuple[QuerySet[Fact], bool]:
        if not search_term.strip() or parse_uuid(search_term):
            return super().get_search_results(request, queryset, search_term)
        try:
            words = read_words(search_term)
        except BadQuery as error:
            self.message_user(request, str(error), messages.WARNING)
            return queryset.none(), False
        return queryset.filter(search_text=StemmedQuery(words["every_word"])), False

    @admin.display(description="value")
    def value(self, fact: Fact) -> str:
        text = " ".join(fact.text.split())
        return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."

    @admin.action(description="Retract: it was wrong", permissions=["delete_fact"])
    def retract(self, request: HttpRequest, queryset: QuerySet[Fact]) -> None:
        for fact in queryset:
            retract_fact(fact.pk, f"retracted by {request.user.get_username()}")
            self.log_change(request, fact, "retracted")
        self.message_user(request, "Retracted.")

    def has_delete_fact_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("knowledge.delete_fact")


class EmbeddingModelForm(forms.ModelForm):
    """Offers the providers there are, and not to retire: that drops the vectors, and is a command."""

    provider = forms.ChoiceField(choices=lambda: [(name, name) for name in provider_names()])
    state = forms.ChoiceField(
        choices=EDITABLE_STATES,
        initial="paused",
        help_text="active: new facts get vectors; paused: they wait",
    )


@admin.register(EmbeddingModel)
class EmbeddingModelAdmin(RoomAdmin):
    form = EmbeddingModelForm
    list_display = [
        "model_name",
        "model_version",
        "provider",
        "dimensions",
        "is_default",
        "state",
        "vectors",
        "waiting",
        "index",
        "problem",
    ]
    readonly_fields = ["vectors", "waiting", "index", "problem", "caught_up_at", "created_at"]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return [*self.readonly_fields, "model_name", "dimensions"] if obj else []

    def save_model(self, request: HttpRequest, obj: EmbeddingModel, form: Any, change: bool) -> None:
        try:
            save_model(obj)
        except MisterSmithError as error:
            self.message_user(request, f"{error}. {error.hint}", messages.ERROR)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        is_retired = obj is not None and obj.state == EmbeddingModel.State.RETIRED
        return super().has_change_permission(request, obj) and not is_retired

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # its partition would stay behind

    @admin.display(description="vectors (estimated)")
    def vectors(self, model: EmbeddingModel) -> str:
        return f"{self._progress(model).vectors:,}"

    @admin.display(description="facts waiting")
    def waiting(self, model: EmbeddingModel) -> str:
        return self._progress(model).waiting_text

    @admin.display(description="vector index")
    def index(self, model: EmbeddingModel) -> str:
        return self._progress(model).index

    @admin.display(description="problem", empty_value="")
    def problem(self, model: EmbeddingModel) -> str:
        error = self._progress(model).problem
        return f"{error}: {error.hint}" if error else ""

    def _progress(self, model: EmbeddingModel) -> Progress:
        """Look once per row and request: the row's object lives as long."""
        if not hasattr(model, "progress"):
            model.progress = progress_of(model)  # type: ignore[attr-defined]
        found: Progress = model.progress  # type: ignore[attr-defined]
        return found


@admin.register(Embedding)
class EmbeddingAdmin(ReadOnlyAdmin, BigTableAdmin):
    list_display = ["embedding_id", "fact", "embedding_model", "embedding_version", "created_at"]
    list_filter = ["embedding_model"]
    list_select_related = ["fact", "embedding_model"]
    exclude = ["embedding_vector"]
    uuid_search_fields = ("pk", "fact_id")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Embedding]:
        return super().get_queryset(request).defer("embedding_vector", "fact__search_text")

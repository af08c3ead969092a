"""The audit, and bulk jobs: looked at here; the one thing to do is to stop a job."""

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from operators.audit import Actor
from operators.bulk import cancel_bulk
from operators.confirm import reasoned_action
from operators.models import OPEN, AuditEntry, BulkJob
from pg.admin import BigTableAdmin, ReadOnlyAdmin


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnlyAdmin, BigTableAdmin):
    list_display = ("recorded_at", "actor", "via", "action", "object_count", "reason")
    list_filter = ("via",)
    search_fields = ("=actor", "=action", "objects_touched__contains")
    search_help_text = "A whole actor, action or object id."
    uuid_search_fields = ()

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[AuditEntry], search_term: str
    ) -> tuple[QuerySet[AuditEntry], bool]:
        """Each of the three has an index of its own: one that finds something is enough."""
        if not (text := search_term.strip()):
            return queryset, False
        for wanted in ({"objects_touched__contains": [text]}, {"actor": text}, {"action": text}):
            found = queryset.filter(**wanted)
            if found.order_by().exists():
                return found, False
        return queryset.none(), False


@admin.register(BulkJob)
class BulkJobAdmin(ReadOnlyAdmin, BigTableAdmin):
    list_display = ("created_at", "action", "status", "done", "failed", "expected", "requested_by", "reason")
    list_filter = ("status", "action")
    uuid_search_fields = ()
    actions = ("cancel",)

    def has_cancel_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("operators.change_bulkjob")

    @reasoned_action("Stop the selected jobs", permissions=["cancel"])
    def cancel(self, request: HttpRequest, jobs: QuerySet[BulkJob], by: Actor, reason: str) -> str:
        open_jobs = jobs.filter(status__in=OPEN)
        stopped = [cancel_bulk(job.pk, by=by, reason=reason) for job in open_jobs]
        return f"{len(stopped)} jobs stopped; what they have done stays done."

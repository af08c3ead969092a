"""Users, groups and schedules in the look of all the rest; and who did what by hand."""

from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User
from django_celery_beat.admin import (
    ClockedScheduleAdmin,
    CrontabScheduleAdmin,
    PeriodicTaskAdmin,
    PeriodicTaskForm,
    TaskSelectWidget,
)
from django_celery_beat.models import (
    ClockedSchedule,
    CrontabSchedule,
    IntervalSchedule,
    PeriodicTask,
    SolarSchedule,
)
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from pg.admin import BigTableAdmin, ReadOnlyAdmin, RoomAdmin

for model in (
    User,
    Group,
    PeriodicTask,
    IntervalSchedule,
    CrontabSchedule,
    SolarSchedule,
    ClockedSchedule,
):
    admin.site.unregister(model)


@admin.register(User)
class StyledUserAdmin(UserAdmin, RoomAdmin):
    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm


@admin.register(Group)
class StyledGroupAdmin(GroupAdmin, RoomAdmin):
    """Viewer, operator and administrator are made anew by `migrate`; others are yours."""


class JobSelectWidget(UnfoldAdminSelectWidget, TaskSelectWidget):
    """The registered jobs, in the theme's look."""


class StyledPeriodicTaskForm(PeriodicTaskForm):
    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.fields["task"].widget = UnfoldAdminTextInputWidget()
        self.fields["regtask"].widget = JobSelectWidget()


@admin.register(PeriodicTask)
class StyledPeriodicTaskAdmin(PeriodicTaskAdmin, RoomAdmin):
    form = StyledPeriodicTaskForm
    change_form_template = None  # its own has a script in the page, for the plain admin


@admin.register(CrontabSchedule)
class StyledCrontabAdmin(CrontabScheduleAdmin, RoomAdmin):
    pass


@admin.register(ClockedSchedule)
class StyledClockedAdmin(ClockedScheduleAdmin, RoomAdmin):
    pass


@admin.register(IntervalSchedule, SolarSchedule)
class StyledScheduleAdmin(RoomAdmin):
    pass


@admin.register(LogEntry)
class LogEntryAdmin(ReadOnlyAdmin, BigTableAdmin):
    """What people changed by hand; what programs did is in the lifecycle events and executions."""

    list_display = ["action_time", "user", "content_type", "object_repr", "action_flag", "change_message"]
    list_select_related = ["user", "content_type"]
    list_filter = ["action_flag"]
    search_fields = ["=user__username"]
    search_help_text = "A whole user name."

"""The screen of `ftdoctor watch`: gives each frame to the widgets, and keys to what they mean. It computes nothing."""

from __future__ import annotations

import functools
import select
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from rich.text import Text
from textual import events, on
from textual.app import App, ComposeResult, SystemCommand
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal, Vertical
from textual.message import Message
from textual.screen import Screen
from textual.widgets import ContentSwitcher, Input, OptionList, Static

from ftdoctor.faces.curves import METRICS, Curve
from ftdoctor.faces.notify import Notifier
from ftdoctor.faces.terminal import cut_path, printable
from ftdoctor.faces.tui.frame import EMPTY, Frame
from ftdoctor.faces.tui.poller import Poller
from ftdoctor.faces.tui.screens.help import HelpScreen
from ftdoctor.faces.tui.theme import THEMES, palette
from ftdoctor.faces.tui.widgets.detail import Detail, finding_text, fix_text
from ftdoctor.faces.tui.widgets.findings import FindingList
from ftdoctor.faces.tui.widgets.gpus import GpuGrid, GpuStrip
from ftdoctor.faces.tui.widgets.header import Header
from ftdoctor.faces.tui.widgets.keys import KeyBar
from ftdoctor.faces.tui.widgets.log import LogView
from ftdoctor.faces.tui.widgets.plot import Metrics, Plot
from ftdoctor.faces.tui.widgets.tabs import ViewTabs

TERMINAL_SECONDS = 2.0  # between two looks whether the terminal is still there
VIEWS = ("overview", "plots", "gpus", "log")


def while_running(handler: Callable[..., None]) -> Callable[..., None]:
    """A message handler that does nothing while the screen is taken down: messages on their way still arrive then."""

    @functools.wraps(handler)
    def guarded(app: DoctorApp, *message: Message) -> None:
        if app.is_running:
            handler(app, *message)

    return guarded


class FrameTaken(Message):
    """A new frame; a newer one replaces one that was not drawn yet."""

    def __init__(self, frame: Frame | None) -> None:
        super().__init__()
        self.frame = frame

    def can_replace(self, message: Message) -> bool:
        """The last one counts."""
        return isinstance(message, FrameTaken)


class DoctorApp(App[None]):
    """One run on one screen."""

    CSS_PATH = "styles.tcss"
    TITLE = "ftdoctor"
    ENABLE_COMMAND_PALETTE = True
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide"), (160, "-huge")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-low"), (34, "-tall")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("1", "view('overview')", "overview", show=False),
        Binding("2", "view('plots')", "plots", show=False),
        Binding("3", "view('gpus')", "GPUs", show=False),
        Binding("4", "view('log')", "log", show=False),
        Binding("o", "jump", "log line"),
        Binding("y", "copy_fix", "copy fix"),
        Binding("Y", "copy_finding", "copy finding", show=False),
        Binding("slash", "search", "search"),
        Binding("t", "theme", "theme", show=False),
        Binding("question_mark", "help", "help"),
        Binding("q", "quit", "quit"),
    ]

    def __init__(self, title: str, poller: Poller | None = None, notifier: Notifier | None = None) -> None:
        """`poller` brings the frames; without one (tests) `show` does."""
        super().__init__()
        self._run_title, self._poller, self._notifier = title, poller, notifier
        self.frame = EMPTY
        self._known: dict[str, str] = {}
        self._evidence = -1
        self._plots: list[Plot] = []
        for theme in THEMES:
            self.register_theme(theme)
        self.theme = "ftdoctor-dark"

    # -- building ------------------------------------------------------------------------------------------------

    def compose(self) -> ComposeResult:
        """Header, views, keys."""
        yield Header(self._run_title)
        yield ViewTabs(VIEWS)
        with ContentSwitcher(initial="overview", id="views"):
            with Vertical(id="overview"):
                with Container(id="judgement"):
                    yield FindingList()
                    yield Detail()
                with Horizontal(id="strip"):
                    for name, title in METRICS:
                        yield Plot(Curve(name, title), "small plot")
                yield Metrics("metrics")
                yield GpuStrip("gpu-strip")
            with Vertical(id="plots"):
                for name, title in METRICS:
                    yield Plot(Curve(name, title), "plot")
            yield GpuGrid("gpus")
            with Vertical(id="log-view"):
                yield Static("", id="log-status")
                yield LogView()
                yield Input(placeholder="search the log", id="search")
        yield KeyBar()

    def on_mount(self) -> None:
        """Begin to read."""
        self.query_one("#search", Input).display = False
        self.query_one(FindingList).focus()
        self._plots = list(self.query(Plot))
        self.show(EMPTY)
        if self._poller is not None:
            self._poller.start(lambda frame: self.post_message(FrameTaken(frame)))
        if not self.is_headless:
            self.set_interval(TERMINAL_SECONDS, self._look_for_terminal)

    def _look_for_terminal(self) -> None:
        """Where SIGHUP is ignored (nohup) nothing else says that the terminal has gone, and Textual reads for ever."""
        try:
            look = select.poll()
            look.register(0, 0)
            gone = any(state & (select.POLLHUP | select.POLLERR | select.POLLNVAL) for _, state in look.poll(0))
        except (OSError, AttributeError):  # no poll() on this system
            return
        if gone:
            self.terminal_gone()

    def terminal_gone(self) -> None:
        """End the screen: nobody sees it."""
        self.exit()

    async def on_event(self, event: events.Event) -> None:
        """Tell the reader of somebody at the keys, before they are handled."""
        if self._poller is not None and isinstance(event, events.InputEvent):
            self._poller.attend()
        await super().on_event(event)

    # -- frames --------------------------------------------------------------------------------------------------

    @on(FrameTaken)
    @while_running
    def _taken(self, message: FrameTaken) -> None:
        if message.frame is None:
            self.exit()
        else:
            self.show(message.frame)

    def show(self, frame: Frame) -> None:
        """Draw a frame."""
        self.frame = frame
        screen = self.screen_stack[0]
        screen.query_one(Header).show(frame)
        findings = screen.query_one(FindingList)
        findings.show(frame)
        screen.query_one(Detail).show(frame, findings.selected())
        screen.query_one("#judgement").set_class(not frame.diagnosis.findings, "-quiet")
        self._show_view(frame)
        screen.query_one(LogView).show(frame.logs, frame.ranks)
        self._announce(frame)

    def _show_view(self, frame: Frame) -> None:
        """Numbers of the view that is seen; another one gets them when it is opened."""
        screen = self.screen_stack[0]
        view = screen.query_one("#views", ContentSwitcher).current
        if view == "overview":
            screen.query_one(Metrics).show(frame.curves)
            strip = screen.query_one(GpuStrip)
            strip.show(frame)
            strip.set_class(len(frame.gpus) > 4, "-many")
            strip.set_class(not frame.gpus, "-none")
        elif view == "gpus":
            screen.query_one(GpuGrid).show(frame)
        for plot in self._plots:
            if plot.seen:
                plot.show(next((curve for curve in frame.curves if curve.name == plot.name), plot.curve))

    def _announce(self, frame: Frame) -> None:
        """Bell and a word for each finding that is new or became worse; consequences of another one stay silent."""
        for finding in frame.diagnosis.findings:
            if self._known.get(finding.id) == finding.severity:
                continue
            self._known[finding.id] = finding.severity
            if finding.severity == "info" or finding.explained_by is not None:
                continue
            self.bell()
            level: Any = "error" if finding.severity == "error" else "warning"
            self.notify(printable(finding.title), title="new finding", severity=level, markup=False)
            if self._notifier is not None:
                self._notifier.send(finding)
        present = {finding.id for finding in frame.diagnosis.findings}
        self._known = {name: severity for name, severity in self._known.items() if name in present}

    # -- what the user does --------------------------------------------------------------------------------------

    @on(OptionList.OptionHighlighted, "#findings")
    @while_running
    def _chosen(self, event: OptionList.OptionHighlighted) -> None:
        self._evidence = -1
        self.query_one(Detail).show(self.frame, event.option.id)

    @on(OptionList.OptionSelected, "#findings")
    @while_running
    def _opened(self) -> None:
        self.action_jump()

    @on(ViewTabs.Chosen)
    @while_running
    def _tab(self, event: ViewTabs.Chosen) -> None:
        self.action_view(event.view)

    @on(KeyBar.Pressed)
    @while_running
    def _clicked(self, event: KeyBar.Pressed) -> None:
        self.simulate_key(event.key)

    @on(LogView.Status)
    @while_running
    def _log_status(self) -> None:
        log, colors = self.query_one(LogView), palette(self)
        status = log.status
        room = max(10, self.size.width - len(status) - 6)
        text = Text.assemble((cut_path(printable(log.path), room), "bold"), "  ", (printable(status), colors.dim))
        self.query_one("#log-status", Static).update(text)

    def action_view(self, view: str) -> None:
        """Show a view."""
        self.query_one("#views", ContentSwitcher).current = "log-view" if view == "log" else view
        self.query_one(ViewTabs).show(view)
        self.query_one(KeyBar).show(view)
        self._show_view(self.frame)
        target = {"overview": "#findings", "log": "#log", "gpus": "#gpus"}.get(view)
        self.set_focus(self.query_one(target) if target is not None else None)

    def action_jump(self, number: int | None = None) -> None:
        """To the log line of the chosen finding's evidence; again: to the next one."""
        finding = self.query_one(Detail).finding
        places = [item for item in finding.evidence if item.line_first] if finding is not None else []
        if finding is None or not places:
            self.notify("this finding has no line in a log", timeout=3)
            return
        if number is not None and 0 <= number < len(finding.evidence) and finding.evidence[number] in places:
            item = finding.evidence[number]
        else:
            self._evidence = (self._evidence + 1) % len(places)
            item = places[self._evidence]
        self.action_view("log")
        self.query_one(LogView).open(item.path, item.line_first)

    def action_copy_fix(self) -> None:
        """The first fix to the clipboard (OSC 52: works over ssh)."""
        finding = self.query_one(Detail).finding
        self._copy(fix_text(finding) if finding is not None else "", "fix")

    def action_copy_finding(self) -> None:
        """The finding as text to the clipboard."""
        finding = self.query_one(Detail).finding
        self._copy(finding_text(finding, self.frame) if finding is not None else "", "finding")

    def _copy(self, text: str, what: str) -> None:
        if not text:
            self.notify(f"there is no {what} to copy", timeout=3)
            return
        self.copy_to_clipboard(text)
        self.notify(f"{what} copied", timeout=2)

    def action_search(self) -> None:
        """Ask what to look for in the log."""
        self.action_view("log")
        box = self.query_one("#search", Input)
        box.display = True
        box.value = self.query_one(LogView).needle
        box.focus()

    @on(Input.Submitted, "#search")
    @while_running
    def _search(self, event: Input.Submitted) -> None:
        log = self.query_one(LogView)
        log.search(event.value)
        self._close_search()
        self.set_timer(0.1, lambda: log.action_next(1))

    def _close_search(self) -> None:
        self.query_one("#search", Input).display = False
        self.query_one(LogView).focus()

    def key_escape(self) -> None:
        """Leave the search box."""
        if self.query_one("#search", Input).has_focus:
            self._close_search()

    def action_theme(self) -> None:
        """Dark or light."""
        self.theme = "ftdoctor-light" if self.current_theme.dark else "ftdoctor-dark"

    def watch_theme(self) -> None:
        """Draw again in other colours."""
        if self._running and self.screen_stack:
            self.show(self.frame)
            self.query_one(Detail).redraw()
            self._log_status()
            self.query_one(ViewTabs).redraw()
            self.query_one(KeyBar).redraw()

    def action_help(self) -> None:
        """All keys."""
        self.push_screen(HelpScreen())

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """Everything the keys do, by name."""
        yield from super().get_system_commands(screen)
        for number, view in enumerate(VIEWS, 1):
            yield SystemCommand(f"View: {view}", f"key {number}", lambda view=view: self.action_view(view))
        log = self.query_one(LogView)
        yield SystemCommand("Copy fix", "the first fix of the chosen finding, key y", self.action_copy_fix)
        yield SystemCommand("Copy finding", "the chosen finding as text, key Y", self.action_copy_finding)
        yield SystemCommand("Go to log line", "of the chosen finding, key o", self.action_jump)
        yield SystemCommand("Search the log", "key /", self.action_search)
        yield SystemCommand("Log: follow or pause", "key f in the log", log.action_follow)
        yield SystemCommand("Log: errors only or all", "key e in the log", log.action_errors)
        yield SystemCommand("Log: next rank", "key r in the log", log.action_rank)
        yield SystemCommand("Dark or light", "key t", self.action_theme)

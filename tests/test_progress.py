import io

from agcxr import progress
from agcxr.progress import ProgressBar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_lines_and_no_carriage_returns():
    log = io.StringIO()
    with ProgressBar(total=4, unit=" films", desc="reading", file=log, mininterval=0) as bar:
        for _ in range(4):
            bar.update()
    lines = log.getvalue().splitlines()
    assert "\r" not in log.getvalue()
    assert lines[0].startswith("reading: 0 of 4 films")
    assert lines[-1].startswith("reading: 4 of 4 films, ")
    assert lines[-1].endswith("left")
    assert all(lines)


def test_a_log_of_quick_work_has_its_first_and_last_line(monkeypatch):
    monkeypatch.setattr(progress, "SECONDS", 3600)
    log = io.StringIO()
    assert list(ProgressBar(range(1000), unit=" films", file=log)) == list(range(1000))
    assert [line.split(",")[0] for line in log.getvalue().splitlines()] == ["0 of 1000 films", "1000 of 1000 films"]


def test_a_bar_that_goes_away_leaves_only_the_lines_of_long_work(monkeypatch):
    for seconds, lines in ((3600, 0), (1e-9, 3)):
        monkeypatch.setattr(progress, "SECONDS", seconds)
        log = io.StringIO()
        with ProgressBar(total=3, unit=" films", desc="global 1/2", leave=False, file=log) as bar:
            for _ in range(3):
                bar.update()
        shown = log.getvalue().splitlines()
        assert (len(shown), "\r" in log.getvalue()) == (lines, False)
        assert all(line.startswith("global 1/2: ") for line in shown)


def test_other_words_between_leave_no_carriage_return(monkeypatch, capsys):
    with ProgressBar(total=3, unit=" films") as bar:
        bar.update()
        bar.write("stage I will take 3 minutes")
    shown = capsys.readouterr()
    assert shown.out == "stage I will take 3 minutes\n"
    assert "\r" not in shown.err


def test_work_without_a_known_end_says_how_much_is_done():
    log = io.StringIO()
    with ProgressBar(unit=" films", file=log) as bar:
        bar.update(7)
    assert log.getvalue().splitlines()[-1].startswith("7 films, ")


def test_a_terminal_gets_tqdms_bar_and_nobody_gets_a_disabled_one():
    screen, log = Terminal(), io.StringIO()
    for _ in ProgressBar(range(3), file=screen):
        pass
    assert "\r" in screen.getvalue()
    assert "3/3" in screen.getvalue()
    for _ in ProgressBar(range(3), file=log, disable=True):
        pass
    assert log.getvalue() == ""

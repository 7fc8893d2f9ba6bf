"""Promises of alerts.py and alert_memory.py: what a message says, and that a finding is told once."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ohlcv_assets.quality.alert_memory import CheckOutcome, FailedRun, Memory
from ohlcv_assets.quality.alerts import Alert, Level, check_link, digest_of, message, run_link, trial_message

_UI = "http://127.0.0.1:3000"
_ASSET = ("stockholm", "futures", "daily_qa")


def outcome(event, passed=False, *, partition="2025-06-01", check="streamed_complete", warns=False, **numbers):
    return CheckOutcome(event, _ASSET, check, partition, passed, warns, "2 bars are missing", numbers)


def alert(number, *, level=Level.ERROR, subject="futures daily_qa: streamed_complete", **changed):
    fields = {
        "partition": f"2025-06-{number:02}",
        "sentence": "2 bars are missing",
        "numbers": {},
        "link": f"{_UI}/x",
    }
    return Alert(fingerprint=str(number), level=level, subject=subject, **{**fields, **changed})


def text_of(told):
    return json.dumps(told, ensure_ascii=False)


def test_one_alert_says_what_happened_how_bad_it_is_and_where_to_look():
    """A message has the level, the check with its partition as a link, the sentence and the numbers that matter first."""
    link = check_link(_UI, _ASSET, "streamed_complete")
    told = message([alert(1, numbers={"zeta": 1.5, "bars_expected": 43200, "bars_missing": 2}, link=link)])
    head, numbers = told["blocks"]
    assert told["text"] == "ERROR futures daily_qa: streamed_complete 2025-06-01: 2 bars are missing"
    assert head["text"]["text"] == (
        ":red_circle: ERROR".join("**")
        + f" <{_UI}/assets/stockholm/futures/daily_qa?view=checks&checkDetail=streamed_complete"
        + "|futures daily_qa: streamed_complete 2025-06-01>\n2 bars are missing"
    )
    assert numbers["elements"][0]["text"] == "bars_missing 2  ·  bars_expected 43,200  ·  zeta 1.5"


def test_errors_warnings_and_recoveries_are_told_apart():
    """The three levels have three words."""
    words = [message([alert(1, level=level)])["blocks"][0]["text"]["text"].split("*")[1] for level in Level]
    assert [word.split(" ", 1)[1] for word in words] == ["ERROR", "WARNING", "GREEN AGAIN"]


@pytest.mark.parametrize("count", [2, 10])
def test_up_to_ten_findings_are_one_message_with_a_part_for_each(count):
    """Every one of ten findings is read in full; Slack takes at most fifty blocks."""
    told = message([alert(number, numbers={"bars_missing": 1}) for number in range(1, count + 1)])
    assert told["text"] == f"{count} findings: {count} error"
    assert len(told["blocks"]) == 2 * count <= 50


def test_more_than_ten_findings_are_a_summary():
    """Thirty red days of one check, and one warning, are two lines: how often, and from when to when."""
    warning = alert(3, level=Level.WARNING, subject="spot daily_qa: flat_blocks")
    told = message([*(alert(number) for number in range(1, 31)), warning])
    shown = [block["text"]["text"] for block in told["blocks"]]
    assert told["text"] == "31 findings: 30 error, 1 warning"
    assert len(shown) == 3
    assert "30 x" in shown[1]
    assert "2025-06-01 to 2025-06-30" in shown[1]
    assert "spot daily_qa: flat_blocks" in shown[2]


@given(st.lists(st.tuples(st.text(max_size=4000), st.text(max_size=4000)), min_size=1, max_size=60))
def test_no_text_breaks_the_message(texts):
    """Whatever a sentence holds, the message is JSON within Slack's limits, and no text becomes a link of its own."""
    told = message([alert(1, subject=subject or "-", sentence=sentence) for subject, sentence in texts])
    assert json.loads(json.dumps(told)) == told
    assert len(told["blocks"]) <= 50
    for block in told["blocks"]:
        shown = block["text"]["text"]
        assert 0 < len(shown) <= 3000
        assert shown.count("<") == shown.count(">") <= 1


def test_almost_everything_is_not_shown_as_all():
    """99.99999 % of the bars is not 100 %."""
    shown = text_of(message([alert(1, numbers={"match_pct": 99.99999})]))
    assert "match_pct 99.99999" in shown
    assert "match_pct 100" in text_of(message([alert(1, numbers={"match_pct": 100.0})]))


def test_links_lead_to_the_page_whatever_the_names_hold():
    """The UI's address may end in a slash, and a name is quoted."""
    assert check_link(f"{_UI}/", ("a b", "c"), "d&e") == f"{_UI}/assets/a%20b/c?view=checks&checkDetail=d%26e"
    assert run_link(f"{_UI}/ohlcv/", "0c1") == f"{_UI}/ohlcv/runs/0c1"


def test_a_test_message_says_that_it_is_one():
    """Nobody takes it for a finding."""
    assert "a test" in trial_message("in stockholm", _UI)["text"]


def test_the_same_finding_has_the_same_digest_while_the_hour_grows():
    """How much was looked at, percentages and durations are not of the finding; what is missing is."""
    early = digest_of({"bars_missing": 2, "bars_expected": 60, "coverage_pct": 96.6, "latency_p99_s": 4.1})
    later = digest_of({"bars_missing": 2, "bars_expected": 120, "coverage_pct": 98.3, "latency_p99_s": 3.9})
    worse = digest_of({"bars_missing": 3, "bars_expected": 120, "coverage_pct": 97.5, "latency_p99_s": 3.9})
    assert early == later != worse


def told(memory, *outcomes):
    memory, alerts = memory.after_checks(outcomes, _UI)
    return memory, [(each.level, each.partition) for each in alerts]


def test_a_red_check_is_told_once_and_its_recovery_once():
    """Red, the same red, worse, green, green: an error, an error, a recovery; and red again is news."""
    memory = Memory()
    steps = [
        (outcome(1, bars_missing=2, bars_expected=60), [Level.ERROR]),
        (outcome(2, bars_missing=2, bars_expected=120), []),
        (outcome(3, bars_missing=5, bars_expected=120), [Level.ERROR]),
        (outcome(4, passed=True), [Level.RECOVERED]),
        (outcome(5, passed=True), []),
        (outcome(6, bars_missing=2), [Level.ERROR]),
    ]
    for evaluated, expected in steps:
        memory, alerts = memory.after_checks([evaluated], _UI)
        assert [each.level for each in alerts] == expected, evaluated.event


def test_the_same_numbers_of_other_bars_are_another_finding():
    """Where a check says a digest of what it found, one bar missing here and one bar missing there are two findings."""
    here, there = (replace(outcome(n, bars_missing=1), digest=f"bar {n}") for n in (1, 2))
    assert len(told(Memory(), here, there, here)[1]) == 2


def test_a_check_that_wavers_between_two_findings_is_no_storm():
    """Two holes, three, two, three: each finding is told once until the check is green."""
    wavering = [outcome(number, bars_missing=2 + number % 2) for number in range(50)]
    assert len(told(Memory(), *wavering)[1]) == 2


def test_a_green_check_is_no_news():
    """Where nothing was red, nothing recovers."""
    assert told(Memory(), outcome(1, passed=True), outcome(2, passed=True, partition=None))[1] == []


def test_partitions_and_checks_are_findings_of_their_own():
    """Two days and two checks with the same numbers are three alerts; a green one of them ends only its own."""
    memory, alerts = told(
        Memory(),
        outcome(1, bars_missing=1),
        outcome(2, bars_missing=1, partition="2025-06-02"),
        outcome(3, bars_missing=1, check="fetched_complete"),
    )
    assert len(alerts) == 3
    assert told(memory, outcome(4, passed=True, partition="2025-06-02"))[1] == [(Level.RECOVERED, "2025-06-02")]


def test_a_warning_that_becomes_an_error_is_told_again():
    """The level is part of the finding."""
    _, alerts = told(Memory(), outcome(1, warns=True), outcome(2))
    assert [level for level, _ in alerts] == [Level.WARNING, Level.ERROR]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.sampled_from("ab")), max_size=40), st.integers(0, 40))
def test_how_ticks_cut_the_events_changes_nothing(events, cut):
    """The same alerts, with the same fingerprints, whether one tick reads all events or two do, also after a restart."""
    outcomes = [
        outcome(number, passed, partition=partition, bars_missing=missing)
        for number, (passed, missing, partition) in enumerate(events)
    ]
    _, at_once = Memory().after_checks(outcomes, _UI)
    memory, first = Memory().after_checks(outcomes[:cut], _UI)
    restored = Memory.model_validate_json(memory.model_dump_json())
    _, second = restored.after_checks(outcomes[cut:], _UI)
    assert [*first, *second] == at_once
    assert len({each.fingerprint for each in at_once}) == len(at_once)


def test_the_memory_is_bounded():
    """A thousand red days are told, the newest three hundred remembered: a cursor stays small."""
    memory, alerts = told(Memory(), *(outcome(number, partition=str(number)) for number in range(1000)))
    assert len(alerts) == 1000
    assert len(memory.model_dump_json()) < 60_000
    assert told(memory, outcome(1001, partition="999"))[1] == []


def failed(run_id, hours, *, job="futures_stream_hour", partition="2025-06-01-11:00", sentence="it broke"):
    return FailedRun(run_id, job, partition, sentence, "futures", 1e9 + 3600 * hours)


def test_a_job_that_keeps_failing_is_told_once_in_six_hours():
    """A run that is started every half minute and fails the same way is no storm, and is not forgotten either."""
    memory, alerts = Memory().after_runs([failed(str(n), n / 120) for n in range(600)], _UI)
    assert [each.fingerprint == alerts[0].fingerprint for each in alerts] == [True]
    _, later = memory.after_runs([failed("later", 6)], _UI)
    assert later[0].link == f"{_UI}/runs/later"


def test_another_failure_of_the_job_is_told():
    """Another partition or another error is another finding."""
    runs = [failed("1", 0), failed("2", 0, partition="2025-06-01-12:00"), failed("3", 0, sentence="it broke anew")]
    assert len(Memory().after_runs(runs, _UI)[1]) == 3

"""docs/serving.md says what is so."""

import re
from pathlib import Path

from prn_guard.serve.metrics import Metrics
from prn_guard.serve.settings import ServeSettings

PAGE = (Path(__file__).parents[3] / "docs" / "serving.md").read_text(encoding="utf-8")


def test_the_table_of_settings_is_complete_and_has_the_defaults():
    table = PAGE[PAGE.index("## Settings") :]
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", table, re.MULTILINE)
    fields = ServeSettings.model_fields
    assert [name for name, _ in rows] == list(fields)
    for name, text in rows:
        default = fields[name].default
        if text.startswith("`"):
            shown = default[0] if isinstance(default, tuple) else default
            expected = str(shown).lower() if isinstance(shown, bool) else str(shown)
            assert text == f"`{expected}`", name
        else:
            assert fields[name].is_required() or default is None, name


def test_the_table_of_metrics_is_complete():
    rows = re.findall(r"^\| `(prn_guard_\w+)` \| (\w+) \|", PAGE, re.MULTILINE)
    rendered = Metrics(threshold=0.5, model="m").render().decode()
    found = re.findall(r"^# TYPE (prn_guard_\w+) (\w+)$", rendered, re.MULTILINE)
    assert rows == [(name, kind) for name, kind in found if not name.endswith("_created")]


def test_the_statuses_are_those_of_the_errors():
    from prn_guard.serve import errors

    classes = [one for one in vars(errors).values() if isinstance(one, type)]
    found = {one.status for one in classes if issubclass(one, errors.RequestError)}
    paragraph = PAGE[PAGE.index("Errors are") : PAGE.index("## Batches")]
    assert {int(text) for text in re.findall(r"\b[45]\d\d\b", paragraph)} == found - {499}

from collections import Counter

import numpy as np
import pytest
from support.scorers import LengthScorer

from recap_fast.joined import JoinedOutput
from recap_fast.score.score_files import Totals
from recap_fast.score.scoring import Scoring
from recap_fast.score.summary import summary
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.run_file import RunFile


@pytest.fixture
def scoring(tmp_path):
    return Scoring(JoinedOutput(OutputFolder.at(tmp_path), RunFile({}, "/", {})), LengthScorer())


def test_what_was_scored_and_what_all_scores_are(scoring, tmp_path):
    scoring.num_scored, scoring.num_shards, scoring.seconds = 1200, 3, 10.0
    totals = Totals(rows=1300)
    totals.re.add(np.array([20.0, 30.0, 31.0]))
    assert summary(scoring, totals).splitlines() == [
        "scored          1,200 images of 3 shards, 120.0 images/s",
        "re_clip_score   mean 27.00, median 30.00 of 3 captions",
        "org_clip_score  none",
        f"files           {tmp_path}/scores/clip/**/*.parquet",
        f'load            datasets.load_dataset("{tmp_path}", "clip_scores")',
    ]


def test_each_kind_of_loss_is_a_note(scoring):
    scoring.num_unfinished = 2
    totals = Totals(counts=Counter({"even": 5, "gone": 1, "changed": 2, "unreadable": 3}))
    notes = [line for line in summary(scoring, totals).splitlines() if line.startswith("note: ")]
    assert notes == [
        "note: 1 image has no score: it cannot be found any more.",
        "note: 2 images have no score: they changed after the run.",
        "note: 3 images have no score: they could not be read, and the next call tries again.",
        "note: 5 have even indices.",
        "note: 2 shards are not finished and have no scores yet.",
    ]

"""A process that measures and can be killed: `worker.py STORE JOURNAL` prints the report. No network, no torch."""

import importlib.util
import json
import sys
from pathlib import Path

from knnseg import ConceptDatabase, Config, Segmenter, Vocabulary
from knnseg.config import StageConfig
from knnseg.evaluation import Journal, evaluate, settings_of
from knnseg.models.regions import RegionProposer

IMAGES = 40


def parts():
    """The scenes and stages of the tests of this package."""
    spec = importlib.util.spec_from_file_location("parts", Path(__file__).parents[1] / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(store, journal):
    made = parts()
    vocabulary = Vocabulary(tuple(made.PALETTE), made.THINGS)
    with ConceptDatabase.open(store, made.ColourFeatures()) as database:
        if not database.store.count():
            database.add([made.make_scene(i, ("sky", "grass", "ball", "kettle")) for i in range(6)])
        proposer = RegionProposer(scales=(30, 100), min_area=10, superpixels=())
        config = Config(StageConfig("none"), StageConfig("none"))
        segmenter = Segmenter(database.extractor, proposer, made.HashBase(), database, config=config)
        scenes = [made.make_scene(i, ("sky", "sand", "ball", "kettle")) for i in range(100, 100 + IMAGES)]
        with Journal(Path(journal), settings_of(segmenter, scenes, vocabulary)) as open_journal:
            report = evaluate(segmenter, scenes, vocabulary, journal=open_journal)
    print(json.dumps(report.to_dict()))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Several writers of one concept database, many times over, each time in fresh processes: is what they saw explained?

    python scripts/many_writers.py 300 faiss:///tmp/writers
    python scripts/many_writers.py 300 'qdrant://localhost:6334/writers' 'qdrant://localhost:6333/writers?transport=http'
    python scripts/many_writers.py 60 milvus://localhost:19530/default/writers --steps 4 --anew

Several URLs take turns. What is not explained is printed as it was seen. The check is that of
``tests/knnseg/database/test_writers.py``; databases are made below the URLs, and stay.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from knnstore import StoreURL

TESTS = Path(__file__).parents[1] / "tests" / "knnseg"
ONE = """
import json, sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/database"]
import conftest, test_writers
url, seed, steps, anew = json.loads(sys.stdin.read())
made = test_writers.run(url, conftest.ColourFeatures(), seed, steps=steps, anew=anew)
sys.exit(0 if test_writers.explain(made) else "\\n".join(map(str, sorted(made, key=lambda one: one[2]))))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=int)
    parser.add_argument("urls", nargs="+")
    parser.add_argument("--first", type=int, default=0, help="The first seed; odd ones have a kill.")
    parser.add_argument("--steps", type=int, default=7, help="Operations of each writer.")
    parser.add_argument("--anew", action="store_true", help="Open the database before each operation.")
    given = parser.parse_args()
    bad, start = 0, time.monotonic()
    for seed in range(given.first, given.first + given.runs):
        url = given.urls[seed // 2 % len(given.urls)]  # kills on each of them
        bad += not explained(url, seed, given.steps, given.anew)
        if seed % 10 == 9:
            print(f"{seed + 1 - given.first} runs, {bad} unexplained, {time.monotonic() - start:.0f} s", flush=True)
    print(f"{given.runs} runs, {bad} unexplained")
    sys.exit(bad > 0)


def explained(url: str, seed: int, steps: int, anew: bool) -> bool:
    place, query, options = url.partition("?")
    asked = json.dumps([f"{place}/w{seed}{query}{options}", seed, steps, anew])
    done = subprocess.run(
        [sys.executable, "-c", ONE, str(TESTS)], input=asked, capture_output=True, text=True, check=False
    )
    if done.returncode:
        print(f"seed {seed} on {StoreURL.parse(url)}:\n{done.stderr[-8000:]}", flush=True)
    return not done.returncode


if __name__ == "__main__":
    main()

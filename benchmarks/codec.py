"""
Time per frame of the codec's twins, in one run.

    python benchmarks/codec.py
"""

import time

import harness

from logiss import frames

STAMP = b'[origin ip="192.0.2.1"]'
TOKEN = b"d.34bc219c-983b-463e-a17d-3d34ee7db812"
ROUNDS = 7
SECONDS_A_ROUND = 0.2


def microseconds_per_frame(rewrite: object, body: bytes, count: int) -> float:
    assert callable(rewrite)
    best = []
    for _ in range(ROUNDS):
        runs, started_at = 0, time.process_time()
        while (spent := time.process_time() - started_at) < SECONDS_A_ROUND:
            rewrite(body, STAMP, TOKEN)
            runs += 1
        best.append(spent / runs / count * 1e6)
    return harness.median(best)


def main() -> None:
    twins = {"pure": frames.rewrite}
    try:
        from logiss import _frames  # type: ignore[attr-defined]
    except ImportError:
        print("the compiled twin was not built: there was no compiler")
    else:
        twins["compiled"] = _frames.rewrite
    print(f"{'frames':>6} {'twin':9} {'us/frame':>9} {'x pure':>7}")
    for count in (1, 50, 500):
        body = harness.post_body(count)
        pure = None
        for name, rewrite in twins.items():
            spent = microseconds_per_frame(rewrite, body, count)
            pure = pure or spent
            print(f"{count:6} {name:9} {spent:9.3f} {spent / pure:7.2f}")


if __name__ == "__main__":
    main()

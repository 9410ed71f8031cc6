from hypothesis import given
from hypothesis import strategies as st

from pudnet_bench.results.analysis.pareto import pareto_front


def test_pareto_front_by_hand() -> None:
    points = [(3.0, 90.0), (1.0, 80.0), (2.0, 70.0), (2.5, 90.0), (9.0, 95.0), (1.0, 80.0), (1.0, 60.0), (9.0, 95.0)]
    assert sorted(pareto_front(points)) == [1, 3, 4, 5, 7]
    assert [points[place] for place in pareto_front(points)] == sorted(points[place] for place in (1, 3, 4, 5, 7))
    assert pareto_front([]) == []


PAIRS = st.lists(st.tuples(st.integers(0, 6).map(float), st.integers(0, 6).map(float)), max_size=12)


@given(PAIRS)
def test_pareto_front_is_what_nothing_beats(points: list[tuple[float, float]]) -> None:
    def beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
        return a != b and a[0] <= b[0] and a[1] >= b[1]

    expected = [place for place, point in enumerate(points) if not any(beats(other, point) for other in points)]
    assert sorted(pareto_front(points)) == expected

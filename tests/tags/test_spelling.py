"""Separate genres in a value, and spellings of a genre."""

import pytest
from genrekeras import tags


@pytest.mark.parametrize(
    "values, genres",
    [
        (["Rock"], ["Rock"]),
        (["Rock; Pop ;Jazz"], ["Rock", "Pop", "Jazz"]),
        (["Rock\0Pop", "Jazz"], ["Rock", "Pop", "Jazz"]),
        (["Hip-Hop/Rap", "R&B/Soul"], ["Hip-Hop", "Rap", "R&B", "Soul"]),
        (["Drum & Bass, Jazz+Funk, Lo-Fi"], ["Drum & Bass", "Jazz+Funk", "Lo-Fi"]),
        (["Singer/Songwriter; Pop"], ["Singer/Songwriter", "Pop"]),
        (["Pop, singer / songwriter"], ["Pop", "singer / songwriter"]),
        (["Folk, World, & Country"], ["Folk, World, & Country"]),
        (["(17)", "4", "(62)", "(4)(17)Hard"], ["Rock", "Disco", "Pop/Funk", "Hard"]),
        (["rock", "Rock", "ROCK/Pop"], ["rock", "Pop"]),
        (["  Old-Time  /\n  Historic"], ["Old-Time", "Historic"]),
        (["Other", "unknown", "12", "255", "None", "-", ";/,", ""], []),
        (["Cafe\u0301"], ["Caf\xe9"]),
        ([], []),
    ],
)
def test_values_are_split_into_genres(values, genres):
    assert tags.split_genres(values) == genres


def test_the_most_frequent_spelling_of_a_genre_is_chosen():
    spellings = ["Hip Hop", "hip-hop", "Hip\u2010Hop", "Hip Hop", "Drum & Bass", "Drum and Bass", "Jazz"]
    spellings += ["Électro", "électro"]
    chosen = tags.merge_spellings(spellings)
    assert set(chosen) == set(spellings)
    assert {chosen[name] for name in spellings[:4]} == {"Hip Hop"}
    assert chosen["Drum and Bass"] == "Drum & Bass" and chosen["Jazz"] == "Jazz" and chosen["électro"] == "Électro"
    assert tags.spelling_key("Hip_Hop") == tags.spelling_key("HIP HOP") != tags.spelling_key("Hip-Hops")

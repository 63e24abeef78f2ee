"""Plugin of beets: predict the genres of tracks on import, and with the command `beet genrekeras`.

The guide is docs/guide/beets.md. Packages that take seconds to import are imported at the first prediction, because
beets loads its plugins for each command.
"""

import collections
import functools
import itertools
import os

from beets import plugins, ui
from beets.importer import Action
from beets.library import Item


class GenrekerasPlugin(plugins.BeetsPlugin):
    """Predict the genres of tracks and albums.

    Tracks that have a genre, tracks whose prediction has low confidence, and tracks that cannot be read keep their
    genres. An album without a genre gets the genres of most of its tracks. The plugin reads files. Only beets
    writes them.
    """

    def __init__(self):
        super().__init__()
        self.config.add(
            {
                "auto": True,
                "model": "musicnn_msd",
                "source": "track",
                "overwrite": False,
                "pretend": False,
                "max_genres": None,
                "min_probability": None,
                "taxonomy": None,
            }
        )
        self._imported_ids = set()  # tracks whose genres were predicted in this import
        if self.config["auto"].get(bool):
            self.import_stages = [self.imported]
            self.register_listener("import_begin", self.import_begins)
            self.register_listener("import_task_files", self.files_imported)

    def commands(self):
        """Return the command of the plugin."""
        command = ui.Subcommand("genrekeras", help="predict the genres of tracks")
        add = command.parser.add_option
        add("-p", "--pretend", action="store_true", help="show the changes, and make none")
        add("-o", "--overwrite", action="store_true", help="replace the genres of tracks that have some")
        command.func = self.run_command
        return [command]

    def run_command(self, library, options, query):
        """Predict the genres of the tracks of a query."""
        self.config.set_args(options)
        for changed in self.predict(library.items(query)):
            ui.show_model_changes(changed, fields=["genres"])
            if not self.config["pretend"].get(bool):
                save(changed, write=ui.should_write())

    def import_begins(self, session):
        """Load the model, so that a wrong option ends the import before anything is imported."""
        self.model_and_options  # noqa: B018 (a cached property)

    def imported(self, session, task):
        """Predict the genres of imported tracks. Their paths are still those before the import."""
        for changed in self.predict(task.imported_items()):
            save(changed, write=False)
            if isinstance(changed, Item):
                self._imported_ids.add(changed.id)

    def files_imported(self, session, task):
        """Write the tags of tracks that were imported as they are. beets writes only those of matched tracks."""
        if session.config["write"].get(bool) and not task.apply and task.choice_flag != Action.RETAG:
            for item in task.imported_items():
                if item.id in self._imported_ids:
                    item.try_write()
                    item.store()

    def predict(self, items):
        """Set genres. Yield each track whose genres have changed, and after the tracks of an album the album."""
        from genrekeras.inference import predict_each
        from genrekeras.library.plan import choose_genres

        by_album = collections.defaultdict(dict)  # id of the album, or path of a track without album -> id -> track
        for item in filter(self.is_open, items):
            by_album[item.album_id or item.path][item.id] = item
        if not by_album:
            return
        model, options = self.model_and_options
        albums = []  # album or `None`, its tracks, groups of tracks that are predicted together
        for open_items in by_album.values():
            album = next(iter(open_items.values())).get_album()
            tracks = [open_items.get(item.id, item) for item in (album.items() if album else open_items.values())]
            groups = [tracks] if options.by_album else [[item] for item in open_items.values()]
            albums.append((album, tracks, groups))
        open_ids = set(itertools.chain(*by_album.values()))
        paths = [os.fsdecode(item.path) for *_, groups in albums for item in itertools.chain(*groups)]
        predictions = predict_each(model, paths)
        for album, tracks, groups in albums:
            for group in groups:
                rows = list(itertools.islice(predictions, len(group)))
                readable = [row for row in rows if row["error"] is None]
                genres, _, reason = choose_genres(model, readable, options) if readable else ((), None, None)
                for item, row in zip(group, rows, strict=True):
                    if item.id not in open_ids:
                        continue
                    if error := row["error"] or reason:
                        self._log.warning("{}: genres are left as they are: {}", row["path"], error)
                    elif item.genres != list(genres):
                        item.genres = list(genres)
                        yield item
            if album and self.is_open(album):
                genres = common_genres(tracks)[: options.max_genres]
                if genres and album.genres != genres:
                    album.genres = genres
                    yield album

    def is_open(self, track_or_album):
        """Return whether the genres of a track or album may be set."""
        return self.config["overwrite"].get(bool) or not has_genre(track_or_album)

    @functools.cached_property
    def model_and_options(self):
        """The model, and the options that choose the genres of a track."""
        from genrekeras.cli.common import EXPORTED, PRESETS, load_track_classifier
        from genrekeras.library import Taxonomy
        from genrekeras.library.plan import TagOptions
        from genrekeras.utils import process

        name = self.config["model"].as_str()
        taxonomy = self.config["taxonomy"]
        by_album = self.config["source"].as_choice(("track", "album")) == "album"
        try:
            path = name if name in PRESETS else self.config["model"].as_filename()
            process.configure(keras=not path.endswith(EXPORTED))
            model = load_track_classifier(path)
            options = TagOptions(
                max_genres=self.config["max_genres"].get(),
                min_probability=self.config["min_probability"].get(),
                by_album=by_album,
                taxonomy=Taxonomy.for_labels(model.genres, taxonomy.get() and taxonomy.as_filename()),
            )
        except (ImportError, OSError, ValueError) as error:
            raise ui.UserError(f"genrekeras: {error}") from error
        return model, options


def has_genre(track_or_album):
    """Return whether a track or album has a genre. "Other", "Unknown" and "None" are not genres."""
    from genrekeras import tags

    return bool(tags.split_genres(track_or_album.genres))


def common_genres(tracks):
    """Return the genres that more than half of the tracks with a genre have, or else the most frequent genre."""
    genres = [item.genres for item in tracks if has_genre(item)]
    counts = collections.Counter(itertools.chain(*genres)).most_common()
    return [genre for genre, count in counts if count > len(genres) / 2] or [genre for genre, _ in counts[:1]]


def save(changed, write):
    """Store a track or album in the library. If `write` is true, also write the tags of the track."""
    if isinstance(changed, Item):
        changed.try_sync(write=write, move=False)
    else:
        changed.store(inherit=False)  # The tracks of an album keep their own genres.

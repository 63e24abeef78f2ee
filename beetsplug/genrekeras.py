"""Plugin of beets: predict the genres of tracks on import, and with the command `beet genrekeras`.

The guide is docs/guide/beets.md. Packages that take seconds to import are imported at the first prediction, because
beets loads its plugins for each command.
"""

import functools
import os

from beets import plugins, ui
from beets.importer import Action


class GenrekerasPlugin(plugins.BeetsPlugin):
    """Predict the genres of tracks.

    Tracks that have a genre, tracks whose prediction has low confidence, and tracks that cannot be read keep their
    genres. The plugin reads files. Only beets writes them.
    """

    def __init__(self):
        super().__init__()
        self.config.add(
            {
                "auto": True,
                "model": "musicnn_msd",
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
        for item in self.predict(library.items(query)):
            ui.show_model_changes(item, fields=["genres"])
            if not self.config["pretend"].get(bool):
                item.try_sync(write=ui.should_write(), move=False)

    def imported(self, session, task):
        """Predict the genres of imported tracks. Their paths are still those before the import."""
        for item in self.predict(task.imported_items()):
            item.store()
            self._imported_ids.add(item.id)

    def files_imported(self, session, task):
        """Write the tags of tracks that were imported as they are. beets writes only those of matched tracks."""
        if session.config["write"].get(bool) and not task.apply and task.choice_flag != Action.RETAG:
            for item in task.imported_items():
                if item.id in self._imported_ids:
                    item.try_write()
                    item.store()

    def predict(self, items):
        """Set the genres of tracks, and yield each track whose genres have changed."""
        from genrekeras import tags
        from genrekeras.inference import predict_each
        from genrekeras.library.plan import choose_genres

        overwrite = self.config["overwrite"].get(bool)
        items = [item for item in items if overwrite or not tags.split_genres(item.genres)]
        if not items:
            return
        model, options = self.model_and_options
        for item, track in zip(items, predict_each(model, [os.fsdecode(item.path) for item in items]), strict=True):
            genres, reason = (), track["error"]
            if reason is None:
                genres, _, reason = choose_genres(model, [track], options)
            if reason is not None:
                self._log.warning("{}: genres are left as they are: {}", track["path"], reason)
            elif list(genres) != item.genres:
                item.genres = list(genres)
                yield item

    @functools.cached_property
    def model_and_options(self):
        """The model, and the options that choose the genres of a track."""
        from genrekeras.cli.common import PRESETS
        from genrekeras.library import Taxonomy
        from genrekeras.library.plan import TagOptions
        from genrekeras.models import presets, saving
        from genrekeras.utils import process

        process.configure()
        name = self.config["model"].as_str()
        taxonomy = self.config["taxonomy"]
        try:
            path = presets.preset_file(name) if name in PRESETS else self.config["model"].as_filename()
            model = saving.load_model(path)
            options = TagOptions(
                max_genres=self.config["max_genres"].get(),
                min_probability=self.config["min_probability"].get(),
                taxonomy=Taxonomy.of_model(name, model.genres, taxonomy.get() and taxonomy.as_filename()),
            )
        except (OSError, ValueError) as error:
            raise ui.UserError(f"genrekeras: {error}") from error
        return model, options

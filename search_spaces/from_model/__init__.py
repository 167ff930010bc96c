"""A search space from any trained module: `space_from_model(module, example_inputs)`."""

from search_spaces.from_model.capture import CaptureError as CaptureError
from search_spaces.from_model.family import FromModel as FromModel
from search_spaces.from_model.family import SpaceOptions as SpaceOptions
from search_spaces.from_model.family import space_from_model as space_from_model
from search_spaces.from_model.groups import Fixed as Fixed

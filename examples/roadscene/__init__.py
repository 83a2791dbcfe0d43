"""Parts of the RoadScene example: data, SwinFuse, patches, evaluation, figures."""

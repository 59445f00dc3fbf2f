"""Moving house: copying between stores, export and import as Parquet, and the checksum that proves it."""

from knnstore.transfer.checksum import content_checksum
from knnstore.transfer.copying import CopyReport
from knnstore.transfer.exporting import ExportReport, export_parquet
from knnstore.transfer.importing import import_parquet
from knnstore.transfer.moving import copy_store

__all__ = ["CopyReport", "ExportReport", "content_checksum", "copy_store", "export_parquet", "import_parquet"]

//! Parquet, column by column, without Arrow.
//!
//! In:  a `.parquet` file. Booleans, integers, floats and UTF-8 strings become text; lists give one field
//!      per element; nested fields are named `outer.inner`; times and dates stay the integers they are stored as.
//!      A binary column, or a struct `{bytes, path}`, is the picture.
//! Out: one record a row, `row` counted from 1.
//! Not here: decimals, INT96 and fixed-length values (reported as ignored columns).
//!
//! The row interface of the crate panics on strings that are not UTF-8; column readers let such a value
//! cost its row only. Other panics on damaged files are caught and cost the row group.

use std::{
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use fs_err::File;
use parquet::{
    basic::{ConvertedType, LogicalType, Type as PhysicalType},
    column::reader::{ColumnReader, ColumnReaderImpl},
    data_type::{ByteArray, DataType},
    errors::ParquetError,
    file::{
        reader::{FileReader, RowGroupReader},
        serialized_reader::SerializedFileReader,
    },
    schema::types::{ColumnDescriptor, SchemaDescriptor},
};

use super::{Event, Sink, Source};
use crate::{
    error::{ReadError, ReadErrorKind},
    record::{ImageSource, RawRecord, Reason, Reject},
};

/// Rows decoded at once; few, because a row may hold a picture.
const BATCH_ROWS: usize = 32;

pub(super) fn read(
    path: &Path,
    source: &Source<'_>,
    sink: &mut Sink<'_>,
) -> Result<ControlFlow<()>, ReadError> {
    let fail = |kind| ReadError { path: path.to_owned(), kind };
    let file = File::open(path).map_err(|e| fail(e.into()))?.into_parts().0;
    let reader =
        guarded(|| SerializedFileReader::new(file)).map_err(|e| fail(ReadErrorKind::Parquet(e)))?;
    let schema = reader.metadata().file_metadata().schema_descr();
    let (leaves, ignored) = leaves(schema, source.image_column);
    let mut names: Vec<String> = leaves.iter().map(|leaf| leaf.name.clone()).collect();
    names.dedup();
    if sink(Event::Columns { names, ignored }).is_break() {
        return Ok(ControlFlow::Break(()));
    }
    let mut first_row = 1;
    for group in 0..reader.num_row_groups() {
        let n_rows = u64::try_from(reader.metadata().row_group(group).num_rows()).unwrap_or(0);
        let opened = guarded(|| reader.get_row_group(group));
        let mut rows =
            GroupRows { leaves: &leaves, source, next: first_row, end: first_row + n_rows };
        let result = opened.and_then(|group| rows.read(&*group, sink));
        match result {
            Ok(ControlFlow::Continue(())) => {}
            Ok(ControlFlow::Break(())) => return Ok(ControlFlow::Break(())),
            Err(error) => {
                let reason = Reason::Parquet { rows: rows.end - rows.next, source: error };
                if sink(source.reject(rows.next, reason)).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        first_row += n_rows;
    }
    Ok(ControlFlow::Continue(()))
}

/// Runs code of the crate on untrusted bytes; a panic becomes an error.
fn guarded<T>(work: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(ParquetError::General("the file is damaged".to_owned())))
}

/// A column that is read.
struct Leaf {
    index: usize,
    name: String,
    role: Role,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Text,
    Unsigned,
    ImageBytes,
}

/// The columns to read, and the names of those that are not.
fn leaves(schema: &SchemaDescriptor, image_column: Option<&str>) -> (Vec<Leaf>, Vec<String>) {
    let mut leaves = Vec::new();
    let mut ignored = Vec::new();
    let mut image: Option<String> = None;
    for (index, column) in schema.columns().iter().enumerate() {
        let root = schema.get_column_root(index).name().to_owned();
        let name = name_of(column);
        let is_image_struct = is_image_struct(schema, index);
        match role_of(column) {
            Some(Role::ImageBytes) => {
                let wanted = match image_column {
                    Some(name) => name == root,
                    None => image.is_none(),
                };
                if wanted && (is_image_struct || name == root) {
                    image = Some(root.clone());
                    leaves.push(Leaf { index, name: root, role: Role::ImageBytes });
                } else {
                    ignored.push(name);
                }
            }
            Some(role) => {
                // The path of a picture struct stands for the picture, as in a text catalogue.
                let name = if is_image_struct { root } else { name };
                leaves.push(Leaf { index, name, role });
            }
            None => ignored.push(name),
        }
    }
    (leaves, ignored)
}

/// Whether the leaf belongs to a struct of exactly `bytes` and `path`.
fn is_image_struct(schema: &SchemaDescriptor, index: usize) -> bool {
    let root = schema.get_column_root(index);
    if !root.is_group() || root.get_fields().len() != 2 {
        return false;
    }
    let mut names: Vec<&str> = root.get_fields().iter().map(|field| field.name()).collect();
    names.sort_unstable();
    names == ["bytes", "path"]
}

/// `outer.inner`, without the levels that only make a list.
fn name_of(column: &ColumnDescriptor) -> String {
    let parts = column.path().parts();
    let is_list_level = |part: &str| ["list", "element", "item", "array", "bag"].contains(&part);
    let kept = parts.iter().enumerate().filter(|(i, part)| *i == 0 || !is_list_level(part));
    kept.map(|(_, part)| part.as_str()).collect::<Vec<_>>().join(".")
}

fn role_of(column: &ColumnDescriptor) -> Option<Role> {
    let logical = column.logical_type_ref();
    if column.converted_type() == ConvertedType::DECIMAL
        || matches!(logical, Some(LogicalType::Decimal(_)))
    {
        return None;
    }
    let unsigned = [
        ConvertedType::UINT_8,
        ConvertedType::UINT_16,
        ConvertedType::UINT_32,
        ConvertedType::UINT_64,
    ];
    let is_text =
        matches!(logical, Some(LogicalType::String | LogicalType::Enum | LogicalType::Json))
            || [ConvertedType::UTF8, ConvertedType::ENUM, ConvertedType::JSON]
                .contains(&column.converted_type());
    match column.physical_type() {
        PhysicalType::BOOLEAN | PhysicalType::FLOAT | PhysicalType::DOUBLE => Some(Role::Text),
        PhysicalType::INT32 | PhysicalType::INT64 => {
            let is_unsigned = unsigned.contains(&column.converted_type());
            Some(if is_unsigned { Role::Unsigned } else { Role::Text })
        }
        PhysicalType::BYTE_ARRAY => Some(if is_text { Role::Text } else { Role::ImageBytes }),
        PhysicalType::INT96 | PhysicalType::FIXED_LEN_BYTE_ARRAY => None,
    }
}

/// The rows of one row group that are still to be told.
struct GroupRows<'a> {
    leaves: &'a [Leaf],
    source: &'a Source<'a>,
    next: u64,
    end: u64,
}

impl GroupRows<'_> {
    fn read(
        &mut self,
        group: &dyn RowGroupReader,
        sink: &mut Sink<'_>,
    ) -> Result<ControlFlow<()>, ParquetError> {
        let open = |leaf: &Leaf| guarded(|| group.get_column_reader(leaf.index));
        let mut readers = self.leaves.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        while self.next < self.end {
            let n = usize::try_from(self.end - self.next).unwrap_or(BATCH_ROWS).min(BATCH_ROWS);
            let mut rows: Vec<Row> = (0..n).map(|_| Row::default()).collect();
            for (leaf, reader) in self.leaves.iter().zip(&mut readers) {
                let column = group.metadata().column(leaf.index).column_descr();
                let cells = guarded(|| column_cells(reader, leaf, column, n))?;
                rows.iter_mut().zip(cells).for_each(|(row, cells)| row.take(leaf, cells));
            }
            for row in rows {
                let event = row.event(self.source, self.next);
                self.next += 1;
                if sink(event).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

#[derive(Default)]
struct Row {
    fields: Vec<(String, String)>,
    image: Option<Vec<u8>>,
    fault: Option<Reason>,
}

impl Row {
    fn take(&mut self, leaf: &Leaf, cells: Vec<Cell>) {
        for cell in cells {
            match cell {
                Cell::Text(text) => self.fields.push((leaf.name.clone(), text)),
                Cell::Bytes(bytes) if leaf.role == Role::ImageBytes => {
                    self.image.get_or_insert_with(|| bytes.data().to_vec());
                }
                Cell::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
                    Ok(text) => self.fields.push((leaf.name.clone(), text.to_owned())),
                    Err(error) => {
                        let (part, byte) =
                            (format!("field `{}`", leaf.name), error.valid_up_to() + 1);
                        self.fault.get_or_insert(Reason::NotUtf8 { part, byte });
                    }
                },
            }
        }
    }

    fn event(self, source: &Source<'_>, row: u64) -> Event {
        let place = source.place(row);
        if let Some(reason) = self.fault {
            return Event::Reject(Reject { place, id: None, reason });
        }
        let image = self.image.map(ImageSource::Bytes);
        source.checked(RawRecord { place, key: None, fields: self.fields, image })
    }
}

/// A value of a column.
enum Cell {
    Text(String),
    Bytes(ByteArray),
}

/// The values of the next `n` rows of a column.
fn column_cells(
    reader: &mut ColumnReader,
    leaf: &Leaf,
    column: &ColumnDescriptor,
    n: usize,
) -> Result<Vec<Vec<Cell>>, ParquetError> {
    let unsigned = leaf.role == Role::Unsigned;
    match reader {
        ColumnReader::BoolColumnReader(r) => cells(r, column, n, |v| Cell::Text(v.to_string())),
        ColumnReader::Int32ColumnReader(r) => cells(r, column, n, |v| {
            Cell::Text(if unsigned { v.cast_unsigned().to_string() } else { v.to_string() })
        }),
        ColumnReader::Int64ColumnReader(r) => cells(r, column, n, |v| {
            Cell::Text(if unsigned { v.cast_unsigned().to_string() } else { v.to_string() })
        }),
        ColumnReader::FloatColumnReader(r) => cells(r, column, n, |v| Cell::Text(v.to_string())),
        ColumnReader::DoubleColumnReader(r) => cells(r, column, n, |v| Cell::Text(v.to_string())),
        ColumnReader::ByteArrayColumnReader(r) => cells(r, column, n, Cell::Bytes),
        ColumnReader::Int96ColumnReader(_) | ColumnReader::FixedLenByteArrayColumnReader(_) => {
            Err(ParquetError::NYI("a column of this type".to_owned()))
        }
    }
}

fn cells<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    column: &ColumnDescriptor,
    n: usize,
    to_cell: impl Fn(T::T) -> Cell,
) -> Result<Vec<Vec<Cell>>, ParquetError> {
    let (mut definitions, mut repetitions, mut values) = (Vec::new(), Vec::new(), Vec::new());
    let (mut n_rows, mut n_levels) = (0, 0);
    while n_rows < n {
        let (definition, repetition) = (Some(&mut definitions), Some(&mut repetitions));
        let (rows, _, levels) =
            reader.read_records(n - n_rows, definition, repetition, &mut values)?;
        if rows == 0 {
            return Err(ParquetError::EOF("a column ends before its rows do".to_owned()));
        }
        (n_rows, n_levels) = (n_rows + rows, n_levels + levels);
    }
    let (max_definition, max_repetition) = (column.max_def_level(), column.max_rep_level());
    let mut values = values.into_iter();
    let mut rows: Vec<Vec<Cell>> = Vec::with_capacity(n);
    for level in 0..n_levels {
        if max_repetition == 0 || repetitions[level] == 0 {
            rows.push(Vec::new());
        }
        if max_definition == 0 || definitions[level] == max_definition {
            let (Some(row), Some(value)) = (rows.last_mut(), values.next()) else {
                return Err(ParquetError::General("levels and values do not fit".to_owned()));
            };
            row.push(to_cell(value));
        }
    }
    Ok(rows)
}

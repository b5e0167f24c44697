#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ::parquet::basic::Compression;
use ::parquet::data_type::{ByteArray, ByteArrayType, FixedLenByteArray, FixedLenByteArrayType, Int64Type};
use ::parquet::file::metadata::KeyValue;
use ::parquet::file::properties::WriterProperties;
use ::parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use ::parquet::schema::parser::parse_message_type;
use proptest::prelude::*;
use tempfile::TempDir;

use super::{ColumnNames, Label, LabelColumn, Record, Records, RecordsError};

fn file(name: &str, content: &[u8]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    (folder, path)
}

fn read_as(name: &str, content: &[u8]) -> Result<Vec<Record>, RecordsError> {
    let (_folder, path) = file(name, content);
    Records::open(&path)?.collect()
}

fn list(labels: &[&str]) -> Label {
    Label::List(labels.iter().map(|&label| label.to_owned()).collect())
}

/// `(line, label, text, pair)` of each row.
fn rows(rows: &[(usize, Option<&str>, &str, Option<&str>)]) -> Vec<Record> {
    let row = |&(line, label, text, pair): &(usize, Option<&str>, &str, Option<&str>)| Record {
        line,
        label: label.map(|label| Label::Text(label.into())),
        text: text.into(),
        pair: pair.map(Into::into),
    };
    rows.iter().map(row).collect()
}

#[test]
fn reads_tables_by_their_columns() {
    let quoted = rows(&[(2, Some("1"), "\"a", None), (4, Some("0"), "b", None)]);
    assert_eq!(read_as("x.tsv", b"label\tsentence\n1\t\"a\n\n0\tb\n").unwrap(), quoted);
    let pair = rows(&[(2, Some("1"), "a", Some("b"))]);
    assert_eq!(read_as("x.tsv", b"sentence1\tlabel\tsentence2\r\na\t 1 \tb\r\n").unwrap(), pair);
    assert_eq!(read_as("x.TSV", b"text\ttext_pair\na\t").unwrap(), rows(&[(2, None, "a", Some(""))]));
    let comma = "text,label\n\"a, \"\"b\"\"\nsecond line\",x\nc,\n";
    assert_eq!(
        read_as("x.csv", comma.as_bytes()).unwrap(),
        rows(&[(2, Some("x"), "a, \"b\"\nsecond line", None), (4, Some(""), "c", None)])
    );
}

/// The order of the columns in the file does not matter.
#[test]
fn prefers_columns_by_name() {
    let pair = rows(&[(2, None, "b", Some("c"))]);
    assert_eq!(read_as("x.tsv", b"text\tsentence1\tsentence2\na\tb\tc\n").unwrap(), pair);
    assert_eq!(read_as("x.csv", b"sentence2,text,sentence1,text_pair\nc,a,b,d\n").unwrap(), pair);
    let json = br#"{"text_pair": "d", "text": "a", "sentence2": "c", "sentence1": "b"}"#;
    assert_eq!(read_as("x.jsonl", json).unwrap(), rows(&[(1, None, "b", Some("c"))]));
}

#[test]
fn column_that_is_read_is_there_once() {
    for (name, content, column) in [
        ("x.tsv", "label\tsentence\tlabel\na\tb\tc\n", "label"),
        ("x.csv", "label,text, text \na,b,c\n", "text"),
        ("x.tsv", "sentence1\tsentence2\tsentence2\na\tb\tc\n", "sentence2"),
    ] {
        let error = read_as(name, content.as_bytes()).unwrap_err();
        assert!(matches!(&error, RecordsError::Twice { column: found, .. } if found == column), "{error}");
    }
    let unused = read_as("x.tsv", b"id\tid\ttext\n1\t2\ta\n").unwrap();
    assert_eq!(unused, rows(&[(2, None, "a", None)]));
}

/// Whoever reads the texts alone does not care what the labels are.
#[test]
fn column_of_labels_may_be_anything_if_it_is_ignored() {
    let stars = ColumnNames { label: Some("stars".into()), ..ColumnNames::default() };
    for (name, content, names) in [
        ("x.csv", &b"label,sentence,label\na,good,b\n"[..], ColumnNames::default()),
        ("x.tsv", b"label\tsentence\nna\xefve\tgood\n", ColumnNames::default()),
        ("x.csv", b"label,sentence\na,good\n", stars.clone()),
        ("x.txt", b"\ngood", stars),
    ] {
        let (_folder, path) = file(name, content);
        let read = |labels| Records::select(&path, &names, labels).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let found = read(LabelColumn::Ignored).unwrap();
        assert_eq!(found.last(), rows(&[(2, None, "good", None)]).first(), "{name}");
        assert!(read(LabelColumn::Optional).is_err() && read(LabelColumn::Required).is_err(), "{name}");
    }
}

/// Two files that were joined. Their header is no row, and its label no class.
#[test]
fn repeated_header_is_refused() {
    for (name, content) in [
        ("x.tsv", "label\tsentence\na\tb\nlabel\tsentence\nc\td\n"),
        ("x.csv", "id,text,label,text_pair\n1,a,x,b\nid, text,label,text_pair\n"),
    ] {
        let message = read_as(name, content.as_bytes()).unwrap_err().to_string();
        assert!(message.ends_with(":3: the row repeats the header, as where files were joined"), "{message}");
    }
    // These may be texts.
    assert_eq!(read_as("x.tsv", b"text\ntext\n").unwrap(), rows(&[(2, None, "text", None)]));
    let labelled = read_as("x.tsv", b"label\ttext\nx\ttext\nlabel\tx\n").unwrap();
    assert_eq!(labelled, rows(&[(2, Some("x"), "text", None), (3, Some("label"), "x", None)]));
}

/// As in HTTP requests: null stands for no second text, and a text must be a string.
#[test]
fn null_is_no_second_text_and_never_a_text() {
    let json = br#"{"text": "a", "text_pair": null, "label": null}"#;
    assert_eq!(read_as("x.jsonl", json).unwrap(), rows(&[(1, Some(""), "a", None)]));
    let message = read_as("x.jsonl", br#"{"text": null}"#).unwrap_err().to_string();
    assert!(message.ends_with(":1: the text is null: expected a string"), "{message}");
}

#[test]
fn reads_json_lines_and_plain_lines() {
    let json = "{\"text\": \"a\", \"label\": 1}\n\n{\"sentence2\": \"c\", \"sentence1\": \"b\", \"idx\": [1]}\r\n\
                {\"sentence\": \"\\t\", \"label\": null}";
    let expected = rows(&[(1, Some("1"), "a", None), (3, None, "b", Some("c")), (4, Some(""), "\t", None)]);
    assert_eq!(read_as("x.jsonl", json.as_bytes()).unwrap(), expected);
    let plain = rows(&[(1, None, "a\tb", None), (2, None, "", None), (3, None, "c", None)]);
    assert_eq!(read_as("x.txt", b"a\tb\r\n\nc").unwrap(), plain);
    assert_eq!(read_as("x.txt", b"").unwrap(), []);
}

#[test]
fn reads_utf_16_by_its_byte_order_mark_and_refuses_other_encodings() {
    let text = "label\ttext\n1\tnaïve 日本 🦀\n";
    let expected = rows(&[(2, Some("1"), "naïve 日本 🦀", None)]);
    let with_mark = |mark: &[u8], units: fn(u16) -> [u8; 2]| {
        [mark.to_vec(), text.encode_utf16().flat_map(units).collect()].concat()
    };
    assert_eq!(read_as("x.tsv", text.as_bytes()).unwrap(), expected);
    assert_eq!(read_as("x.tsv", &[b"\xef\xbb\xbf", text.as_bytes()].concat()).unwrap(), expected);
    assert_eq!(read_as("x.tsv", &with_mark(&[0xff, 0xfe], u16::to_le_bytes)).unwrap(), expected);
    assert_eq!(read_as("x.tsv", &with_mark(&[0xfe, 0xff], u16::to_be_bytes)).unwrap(), expected);
    let latin = b"label,text\n1,ok\n0,na\xefve\n";
    for name in ["x.csv", "x.txt"] {
        let message = read_as(name, latin).unwrap_err().to_string();
        assert!(message.ends_with(":3: not UTF-8"), "{message}");
    }
}

#[test]
fn errors_name_malformed_parts() {
    let missing = Path::new("no such folder/x.tsv");
    assert!(matches!(Records::open(missing), Err(RecordsError::Io { path, .. }) if path == missing));
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(Records::open(&folder.path().join("a.xlsx")), Err(RecordsError::Format { .. })));
    for name in ["x.tsv", "x.csv", "x.parquet"] {
        assert!(matches!(read_as(name, b""), Err(RecordsError::Empty { .. })), "{name}");
    }
    assert!(
        matches!(read_as("x.tsv", b"label\tbody\n"), Err(RecordsError::Column { found, .. }) if found == "label, body")
    );
    assert!(
        matches!(read_as("x.csv", b"label,sentence1\n"), Err(RecordsError::Column { column, .. }) if column == "sentence2")
    );
    for (name, content) in [("x.tsv", &b"label\ttext\n1\ta\nb\n"[..]), ("x.csv", b"label,text\n1,a\nb\n")] {
        let message = read_as(name, content).unwrap_err().to_string();
        assert!(message.ends_with(":3: expected 2 fields, found 1"), "{message}");
    }
    for content in ["label,text\n1,a\n0,\"b\n1,c\n", "label,text\n1,a\n0,\"b \"\"", "label,text\n1,a\n\"\n\n"] {
        let message = read_as("x.csv", content.as_bytes()).unwrap_err().to_string();
        assert!(message.ends_with(":3: a quote that is opened here is never closed"), "{message}");
    }
    let message = read_as("x.csv", b"label,\"text\n1,a\n").unwrap_err().to_string();
    assert!(message.ends_with(":1: a quote that is opened here is never closed"), "{message}");
    for end in ["\n", "\r\n"] {
        let content = ["label,text", "1,a", "", "1,\"x", "y\"", "b", ""].join(end);
        let message = read_as("x.csv", content.as_bytes()).unwrap_err().to_string();
        assert!(message.ends_with(":6: expected 2 fields, found 1"), "{message}");
        let content = ["label,text", "1,a", "0,\"b", "1,c", ""].join(end);
        let message = read_as("x.csv", content.as_bytes()).unwrap_err().to_string();
        assert!(message.ends_with(":3: a quote that is opened here is never closed"), "{message}");
    }
    let stray = format!("label,text\n1,a\n0,\"b\n{}", "1,a text of some length\n".repeat(1 << 20));
    let message = read_as("x.csv", stray.as_bytes()).unwrap_err().to_string();
    assert!(message.contains(":3: expected a record of at most"), "{message}");
    assert!(matches!(read_as("x.jsonl", b"{\"label\": 1}"), Err(RecordsError::Column { line: Some(1), .. })));
    for line in [
        "x",
        "{\"text\": 1}",
        "[]",
        "{\"text\": \"a\"",
        "{\"text\" \"a\"}",
        "{\"text\": \"a\",}",
        "{} {}",
        "{\"text\":}",
    ] {
        assert!(matches!(read_as("x.jsonl", line.as_bytes()), Err(RecordsError::Line { line: 1, .. })), "{line}");
    }
    for content in [&b"PAR1"[..], b"PAR1\xff\xff\xff\xffPAR1", b"PAR1 something that is no Parquet PAR1"] {
        assert!(matches!(read_as("x.parquet", content), Err(RecordsError::Malformed { .. })));
    }
}

/// A Parquet file of an `idx`, a `sentence` and a nullable `label`, in groups of 50 rows.
fn parquet_of(path: &Path, texts: &[String], compression: Compression) {
    let schema = "message m { required int64 idx; required binary sentence (UTF8); optional int64 label; }";
    let properties = WriterProperties::builder().set_compression(compression).build();
    let out = std::fs::File::create(path).unwrap();
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut writer = SerializedFileWriter::new(out, schema, Arc::new(properties)).unwrap();
    for (group, some) in texts.chunks(50).enumerate() {
        let mut row_group = writer.next_row_group().unwrap();
        let numbers: Vec<i64> = (0..some.len() as i64).map(|i| i + 50 * group as i64).collect();
        let mut column = row_group.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(&numbers, None, None).unwrap();
        column.close().unwrap();
        let mut column = row_group.next_column().unwrap().unwrap();
        let texts: Vec<ByteArray> = some.iter().map(|text| text.as_str().into()).collect();
        column.typed::<ByteArrayType>().write_batch(&texts, None, None).unwrap();
        column.close().unwrap();
        let mut column = row_group.next_column().unwrap().unwrap();
        // Every seventh label is null.
        let there: Vec<i16> = numbers.iter().map(|i| i16::from(i % 7 != 0)).collect();
        let labels: Vec<i64> = numbers.iter().filter(|i| *i % 7 != 0).map(|i| i % 3).collect();
        column.typed::<Int64Type>().write_batch(&labels, Some(&there), None).unwrap();
        column.close().unwrap();
        row_group.close().unwrap();
    }
    writer.close().unwrap();
}

#[test]
fn reads_parquet_in_several_groups_and_compressions() {
    let texts: Vec<String> = (0..130).map(|i| format!("text \"{i}\",\t日本")).collect();
    let brotli = Compression::BROTLI(Default::default());
    for compression in [Compression::UNCOMPRESSED, Compression::SNAPPY, Compression::ZSTD(Default::default()), brotli] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("train.parquet");
        parquet_of(&path, &texts, compression);
        let rows: Vec<Record> = Records::open(&path).unwrap().collect::<Result<_, _>>().unwrap();
        assert_eq!(rows.len(), 130);
        for (i, row) in rows.iter().enumerate() {
            let label = if i % 7 == 0 { String::new() } else { (i % 3).to_string() };
            assert_eq!(
                *row,
                Record { line: i + 1, label: Some(Label::Text(label)), text: texts[i].clone(), pair: None }
            );
        }
    }
}

/// Writes a Parquet file of the texts a and b, with a column of labels that `labels` fills.
fn write_labelled(path: &Path, schema: &str, labels: impl FnOnce(&mut SerializedColumnWriter)) {
    let out = std::fs::File::create(path).unwrap();
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut writer = SerializedFileWriter::new(out, schema, Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<ByteArrayType>().write_batch(&["a".into(), "b".into()], None, None).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    labels(&mut column);
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
}

/// Lists of labels are read as lists, and do not prevent the texts from being read.
#[test]
fn reads_parquet_with_lists_of_labels() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.parquet");
    let schema = "message m { required binary text (UTF8); \
                  required group label (LIST) { repeated group list { required int64 element; } } }";
    write_labelled(&path, schema, |column| {
        column.typed::<Int64Type>().write_batch(&[1, 0, 2], Some(&[1, 1, 1]), Some(&[0, 1, 0])).unwrap();
    });
    let rows: Vec<Record> = Records::open(&path).unwrap().collect::<Result<_, _>>().unwrap();
    let labels: Vec<_> = rows.into_iter().map(|row| row.label.unwrap()).collect();
    assert_eq!(labels, [list(&["1", "0"]), list(&["2"])]);
}

/// The parquet crate panics on such a column.
#[test]
fn error_names_parquet_row_that_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.parquet");
    let schema = "message m { required binary text (UTF8); required fixed_len_byte_array(12) label (INTERVAL); }";
    write_labelled(&path, schema, |column| {
        let intervals = [0, 1].map(|byte: u8| FixedLenByteArray::from(vec![byte; 12]));
        column.typed::<FixedLenByteArrayType>().write_batch(&intervals, None, None).unwrap();
    });
    let mut rows = Records::open(&path).unwrap();
    let error = rows.next().unwrap().unwrap_err();
    assert!(matches!(&error, RecordsError::Malformed { path: found, .. } if *found == path), "{error}");
    assert!(error.to_string().contains("row 1: ") && error.to_string().contains("INTERVAL"), "{error}");
    assert!(rows.next().is_none());
    // The texts alone can be read.
    let texts = Records::select(&path, &ColumnNames::default(), LabelColumn::Ignored).unwrap();
    assert_eq!(texts.map(|row| row.unwrap().text).collect::<Vec<_>>(), ["a", "b"]);
}

/// The forms in which versions of the library `datasets` spell the features of one class and of several.
#[test]
fn reads_the_names_of_classes_that_parquet_states() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.parquet");
    let stated = |metadata: Option<&str>, names: &ColumnNames| {
        let entries = metadata.map(|json| vec![KeyValue::new("huggingface".to_owned(), json.to_owned())]);
        let properties = WriterProperties::builder().set_key_value_metadata(entries).build();
        let schema = "message m { required binary text (UTF8); required int64 label; required int64 topics; }";
        let (out, schema) = (std::fs::File::create(&path).unwrap(), parse_message_type(schema).unwrap());
        SerializedFileWriter::new(out, Arc::new(schema), Arc::new(properties)).unwrap().close().unwrap();
        Records::class_names(&path, names)
    };
    let of =
        |label: &str| format!(r#"{{"info": {{"features": {{"label": {label}, "topics": {{"_type": "Value"}}}}}}}}"#);
    let class = r#"{"names": ["no", "1"], "_type": "ClassLabel"}"#;
    let usual = ColumnNames::default();
    for feature in [
        class.to_owned(),
        format!("[{class}]"),
        format!(r#"{{"feature": {class}, "_type": "Sequence"}}"#),
        format!(r#"{{"feature": {class}, "length": -1, "_type": "List"}}"#),
    ] {
        assert_eq!(stated(Some(&of(&feature)), &usual).unwrap().unwrap(), ["no", "1"], "{feature}");
    }
    for none in [None, Some("{}"), Some(&*of(r#"{"dtype": "int64", "_type": "Value"}"#)), Some(&*of("[]"))] {
        assert_eq!(stated(none, &usual).unwrap(), None, "{none:?}");
    }
    let topics = ColumnNames { label: Some("topics".into()), ..ColumnNames::default() };
    assert_eq!(stated(Some(&of(class)), &topics).unwrap(), None, "the names of another column");
    let message = stated(Some("{"), &usual).unwrap_err().to_string();
    assert!(message.contains("x.parquet: the metadata huggingface is not JSON: "), "{message}");
}

#[test]
fn tsv_may_begin_with_blank_lines() {
    let expected = rows(&[(4, Some("1"), "a", None)]);
    assert_eq!(read_as("x.tsv", b"\n\nlabel\tsentence\n1\ta\n").unwrap(), expected);
    assert!(matches!(read_as("x.tsv", b"\n\n"), Err(RecordsError::Empty { .. })));
}

#[test]
fn reads_array_of_objects_in_any_layout() {
    let expected = rows(&[(1, Some("1"), "a ] }", None), (2, Some("x"), "b\"", Some("c"))]);
    let (one, two) = (
        r#"{"text": "a ] }", "label": 1, "more": [{"a": [1, {}]}]}"#,
        "{\"label\":\n\"x\", \"text\":\"b\\\"\",\n\n\"text_pair\": \"c\"}",
    );
    for array in [format!("[{one},{two}]"), format!("\n\n [\n  {one}\n,\n{two} \n]\n\n")] {
        for name in ["x.json", "x.jsonl"] {
            assert_eq!(read_as(name, array.as_bytes()).unwrap(), expected, "{name}: {array}");
        }
        let utf16 = [vec![0xff, 0xfe], array.encode_utf16().flat_map(u16::to_le_bytes).collect()].concat();
        assert_eq!(read_as("x.json", &utf16).unwrap(), expected);
    }
    for (wrong, words) in [
        ("[", ":1: the file ends inside the array"),
        ("[{\"text\": \"a\"}", ":2: the file ends inside the array"),
        ("[{\"text\": \"a\"},", ":2: the file ends inside the array"),
        ("[{\"text\": \"a\"", ":1: the file ends inside the array"),
        ("[ ]", ":1: the array is empty"),
        ("[{\"text\": \"a\"} {\"text\": \"b\"}]", ":2: expected a comma"),
        ("[{\"text\": \"a\"}] x", ":2: something follows the array"),
        ("[{\"text\": \"a\"}, [\"b\", 1]]", ":2: expected an object, found [\"b\", 1]]"),
        ("[\"a\", \"b\"]", ":1: expected an object, found \"a\", \"b\"]"),
        ("[{\"text\": \"a\"}, {\"label\": 1}]", ":2: column sentence is missing; found label; expected sentence,"),
        ("{\n\"text\": \"a\"\n}", ":1: the object does not end here: expected one object on each line, or one array"),
        ("{\"data\": [{\"text\": \"a\"}]}", ":1: column sentence is missing; found data; expected sentence,"),
        ("\"a\"", ":1: expected an object, found \"a\""),
    ] {
        let message = read_as("x.json", wrong.as_bytes()).unwrap_err().to_string();
        assert!(message.contains(words), "expected {words:?} in {message:?}");
    }
}

/// An object is read only when it is requested, and an object that never ends is refused.
#[test]
fn reads_array_one_object_at_a_time() {
    let array = format!("[{},", "{\"text\": \"a\"},\n".repeat(3));
    let (_folder, path) = file("x.json", array.as_bytes());
    let mut read = Records::open(&path).unwrap();
    assert!(read.by_ref().take(3).all(|row| row.is_ok()));
    assert!(read.next().unwrap().is_err() && read.next().is_none());
    let endless = format!("[{{\"text\": \"a\"}}, {{\"text\": \"{}", "x".repeat(17 << 20));
    let message = read_as("x.json", endless.as_bytes()).unwrap_err().to_string();
    assert!(message.contains(":2: expected an object of at most"), "{message}");
}

#[test]
fn unread_values_may_be_anything() {
    let expected = rows(&[(1, Some("1"), "a", None)]);
    for other in [
        "NaN",
        "-Infinity",
        "1e999",
        "007",
        "null",
        "[[1, NaN], {\"x\": Infinity}]",
        "{\"text\": [\"}\", \"\\\"\"]}",
        "\"\\ud800\"",
        "123456789012345678901234567890",
        "None",
        "\"a\u{7}b\"",
    ] {
        let line = format!("{{\"score\": {other}, \"text\": \"a\", \"score\":{other} ,\"label\": 1, \"z\": {other}}}");
        assert_eq!(read_as("x.jsonl", line.as_bytes()).unwrap(), expected, "{line}");
        assert_eq!(read_as("x.json", format!("[{line}]").as_bytes()).unwrap(), expected, "{line}");
    }
    let latin = rows(&[(2, Some("1"), "a", None)]);
    assert_eq!(read_as("x.csv", b"label,caf\xe9,text\n1,na\xefve,a\n").unwrap(), latin);
    assert_eq!(read_as("x.tsv", b"label\tcaf\xe9\ttext\n1\tna\xefve\ta\n").unwrap(), latin);
    assert_eq!(read_as("x.jsonl", b"{\"label\": 1, \"x\": \"na\xefve\", \"text\": \"a\"}").unwrap(), expected);
    let twice = b"{\"text\": 1, \"label\": NaN, \"text\": \"a\", \"label\": 1}";
    assert_eq!(read_as("x.jsonl", twice).unwrap(), expected, "the last of equal keys counts");
    // Errors name the values that are read.
    for (line, words) in [
        (&b"{\"text\": NaN}"[..], ":1: text is NaN: expected a string"),
        (b"{\"text\": {\"a\": 1}}", ":1: text is {\"a\": 1}: expected a string"),
        (b"{\"text\": \"na\xefve\"}", ":1: not UTF-8"),
        (b"{\"text\": \"a\", \"text_pair\": [1]}", ":1: text_pair is [1]: expected a string"),
    ] {
        let message = read_as("x.jsonl", line).unwrap_err().to_string();
        assert!(message.ends_with(words), "expected {words:?} in {message:?}");
    }
}

/// Training, not the reader, decides what a label means.
#[test]
fn json_labels_keep_their_spelling() {
    for (spelt, label) in [
        ("1", Label::Text("1".into())),
        ("1.0", Label::Text("1.0".into())),
        ("1e0", Label::Text("1e0".into())),
        ("\" 1 \"", Label::Text("1".into())),
        ("true", Label::Text("true".into())),
        ("12345678901234567890123", Label::Text("12345678901234567890123".into())),
        ("null", Label::Text(String::new())),
        ("[0, 1]", list(&["0", "1"])),
        ("[\" a \", 1.0, true, null]", list(&["a", "1.0", "true", ""])),
        ("[]", list(&[])),
        ("[[1], {\"a\": 1}]", Label::Other("[[1], {\"a\": 1}]".into())),
        ("{\"a\": 1}", Label::Other("{\"a\": 1}".into())),
        ("NaN", Label::Other("NaN".into())),
    ] {
        let line = format!("{{\"text\": \"a\", \"label\": {spelt}}}");
        assert_eq!(read_as("x.jsonl", line.as_bytes()).unwrap()[0].label, Some(label), "{spelt}");
    }
}

#[test]
fn reads_the_given_columns() {
    let names = |label: Option<&str>, text: Option<&str>, pair: Option<&str>| ColumnNames {
        label: label.map(Into::into),
        text: text.map(Into::into),
        pair: pair.map(Into::into),
    };
    let csv = "stars,review,title,sentence1,sentence2,label\n5,a,b,c,d,e\n";
    let json = r#"{"stars": 5, "review": "a", "title": "b", "sentence1": "c", "sentence2": "d", "label": "e"}"#;
    let read = |names: &ColumnNames, name: &str, content: &str| -> Result<Vec<Record>, RecordsError> {
        let (_folder, path) = file(name, content.as_bytes());
        Records::select(&path, names, LabelColumn::Required)?.collect()
    };
    for (names, label, text, pair) in [
        (names(None, None, None), "e", "c", Some("d")),
        (names(Some("stars"), Some("review"), None), "5", "a", None),
        (names(None, Some("review"), Some("title")), "e", "a", Some("b")),
        (names(None, Some("title"), Some("sentence1")), "e", "b", Some("c")),
        (names(Some("stars"), None, Some("title")), "5", "c", Some("b")),
    ] {
        for (line, name, content) in [(2, "x.csv", csv), (2, "x.tsv", &csv.replace(',', "\t")), (1, "x.jsonl", json)] {
            assert_eq!(read(&names, name, content).unwrap(), rows(&[(line, Some(label), text, pair)]), "{names:?}");
        }
    }
    let missing = |names: &ColumnNames, content: &str| read(names, "x.csv", content).unwrap_err().to_string();
    let message = missing(&names(Some("star"), None, None), csv);
    assert!(message.contains("column star is missing; found stars, review, title,"), "{message}");
    let message = missing(&names(None, None, None), "stars,text\n1,a\n");
    assert!(message.ends_with("x.csv: column label is missing; found stars, text; expected label"), "{message}");
}

/// Lines are counted as in an editor, where a bare carriage return ends a line only if it ends all lines.
#[test]
fn counts_csv_lines_correctly_after_bare_carriage_returns() {
    for (content, words) in [
        ("label,text\n1,a\rb\n0,c\n", ":2: expected 2 fields, found 1; a carriage return outside quotes ends a row"),
        ("label,text\r\n1,a\r\n1,a\rb\r\n0,c\r\n", ":3: expected 2 fields, found 1; a carriage"),
        ("label,text\n1,\"a\rb\"\n\n\n0\n", ":5: expected 2 fields, found 1"),
        ("label,text\n\r1,a\n\r\n\r0\n", ":4: expected 2 fields, found 1"),
        ("label,text\n1,a\r\r\n0\n", ":3: expected 2 fields, found 1"),
        ("label,text\r1,a\r0,b\r1\r", ":4: expected 2 fields, found 1"),
        ("label,text\r1,a\r0,\"b\r", ":3: a quote that is opened here is never closed"),
    ] {
        let message = read_as("x.csv", content.as_bytes()).unwrap_err().to_string();
        assert!(message.contains(words), "expected {words:?} in {message:?} of {content:?}");
    }
    // The result does not depend on where the reader's buffers end.
    for long in 0..40 {
        let text = "x".repeat(8170 + long);
        let content = format!("label,text\r\n1,{text}\r\n\r\n1,\"a\r\nb\"\r\n1,{text}\r\n\n0,c\n");
        let lines: Vec<usize> = read_as("x.csv", content.as_bytes()).unwrap().iter().map(|row| row.line).collect();
        assert_eq!(lines, [2, 4, 6, 8], "{long}");
    }
}

/// The file is a pipe. Records come out before the rest is written, so that at most a buffer is in memory at any time.
#[cfg(unix)]
#[test]
fn streams_a_hundred_thousand_rows() {
    const ROWS: usize = 100_000;
    let text =
        |i: usize| format!("the {i}th of many texts, \"quoted\" and as long as a sentence of a task's data mostly is");
    let quoted = move |i: usize| text(i).replace('"', "\"\"");
    type Form = (&'static str, &'static str, Box<dyn Fn(usize) -> String + Send>);
    let forms: [Form; 4] = [
        ("x.tsv", "label\tsentence\n", Box::new(move |i| format!("1\t{}\r\n", text(i)))),
        ("x.csv", "label,sentence\n", Box::new(move |i| format!("1,\"{}\"\n", quoted(i)))),
        ("x.jsonl", "", Box::new(move |i| format!("{}\n", serde_json::json!({ "label": 1, "sentence": text(i) })))),
        ("x.txt", "", Box::new(move |i| format!("{}\n", text(i)))),
    ];
    for (name, header, line) in forms {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let written = Arc::new(AtomicUsize::new(0));
        let (to, count) = (path.clone(), Arc::clone(&written));
        let writer = std::thread::spawn(move || {
            let mut pipe = std::fs::OpenOptions::new().write(true).open(to).unwrap();
            pipe.write_all(header.as_bytes()).unwrap();
            for i in 0..ROWS {
                count.store(i, Ordering::SeqCst);
                pipe.write_all(line(i).as_bytes()).unwrap();
            }
        });
        let mut read = 0;
        for (i, row) in Records::open(&path).unwrap().enumerate() {
            assert_eq!(row.unwrap().text, text(i), "{name}");
            let ahead = written.load(Ordering::SeqCst).saturating_sub(i);
            assert!(ahead < 5000, "{name}: {ahead} rows were taken before row {i} came out");
            read += 1;
        }
        writer.join().unwrap();
        assert_eq!(read, ROWS, "{name}");
    }
}

proptest! {
    /// Any texts that are written are read back unchanged.
    #[test]
    fn any_text_round_trips_through_csv_and_json(texts in prop::collection::vec(("\\PC+", "\\PC*"), 1..20)) {
        let mut writer = ::csv::Writer::from_writer(Vec::new());
        writer.write_record(["text", "text_pair"]).unwrap();
        let mut json = String::new();
        for (text, pair) in &texts {
            writer.write_record([text, pair]).unwrap();
            json += &serde_json::json!({ "text": text, "text_pair": pair }).to_string();
            json.push('\n');
        }
        for (name, content) in [("x.csv", writer.into_inner().unwrap()), ("x.jsonl", json.into_bytes())] {
            let read = read_as(name, &content).unwrap();
            let read: Vec<_> = read.into_iter().map(|row| (row.text, row.pair.unwrap())).collect();
            prop_assert_eq!(&read, &texts, "{}", name);
        }
    }
}

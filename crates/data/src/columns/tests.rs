//! Missing columns are named with the closest one; common names are guessed.

use super::*;

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|n| (*n).to_owned()).collect()
}

#[test]
fn names_every_missing_column_and_the_closest_one() {
    let columns = Columns {
        text: names(&["titel", "name"]),
        image: Some("picture".to_owned()),
        id: Some("id".to_owned()),
        ..Columns::default()
    };
    let found = names(&["id", "title", "name", "colour"]);
    assert_eq!(
        columns.check(&found).unwrap_err().to_string(),
        "no column `titel` for the text, did you mean `title`?; no column `picture` for the image; \
         found are id, title, name, colour"
    );
    let columns = Columns { text: names(&["title"]), ..Columns::default() };
    columns.check(&found).unwrap();
}

#[test]
fn suggests_a_name_of_other_case_or_part() {
    assert_eq!(closest("Title", &names(&["sku", "title"])), Some("title".to_owned()));
    assert_eq!(closest("image", &names(&["sku", "image_path"])), Some("image_path".to_owned()));
    assert_eq!(closest("image", &names(&["sku", "price"])), None);
}

#[test]
fn guesses_common_names_whatever_their_case() {
    let found = names(&["ID", "Description", "Title", "price", "split", "image"]);
    let guess = Columns::guess(&found);
    assert_eq!(guess.text, names(&["Title", "Description"]));
    assert_eq!(guess.id.as_deref(), Some("ID"));
    assert_eq!(guess.image.as_deref(), Some("image"));
    assert_eq!(guess.split.as_deref(), Some("split"));
    assert_eq!(Columns::guess(&names(&["a", "b"])), Columns::default());
}

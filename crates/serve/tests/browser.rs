//! The search page in a real browser, driven through chromedriver.
//!
//! Skipped, with its reason on stderr, where there is no Chromium: `CHROMIUM` names it, or
//! `chromium` is on the path; likewise `CHROMEDRIVER` and `chromedriver`. With
//! `CONJOIN_SCREENSHOTS` set to a folder, pictures of the page are left there.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;
mod webdriver;

use std::{io::Read, sync::Arc};

use common::{FakeItem, FakeModel, FakeStore, Running, send};
use conjoin_serve::ServeConfig;
use serde_json::{Value, json};
use webdriver::Browser;

const HOSTILE: &str = "<img src=x onerror=\"window.hacked=1\"><script>window.hacked=1</script>Kiwi";

/// Products of the bundled data: id, title, words.
const PRODUCTS: [(&str, &str, &str); 9] = [
    ("granny-smith", "Granny Smith", "green apple"),
    ("pink-lady", "Pink Lady", "red apple"),
    ("pineapple", "Pineapple", "yellow pineapple fruit"),
    ("galia-melon", "Galia melon", "yellow melon fruit"),
    ("red-bell-pepper", "Red bell pepper", "red pepper vegetable"),
    ("orange-bell-pepper", "Orange bell pepper", "orange pepper vegetable"),
    ("beef-tomato", "Beef tomato", "red tomato vegetable"),
    ("aubergine", "Aubergine", "purple aubergine vegetable"),
    ("oatly-oat-milk", "Oatly Oat Milk", "oat milk carton"),
];

/// A product's picture, from the bundled data.
fn product(id: &str) -> Vec<u8> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/grocery/products.tar");
    let mut archive = tar::Archive::new(fs_err::File::open(path).unwrap());
    let mut entries = archive.entries().unwrap().map(Result::unwrap);
    let name = format!("{id}.jpg");
    let mut entry = entries.find(|entry| entry.path().unwrap().ends_with(&name)).unwrap();
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).unwrap();
    bytes
}

fn items() -> Vec<FakeItem> {
    let shown = |(id, title, words): (&str, &str, &str)| FakeItem {
        id: id.to_owned(),
        payload: [
            ("name".to_owned(), title.to_owned()),
            ("category".to_owned(), words.split(' ').next_back().unwrap().to_owned()),
        ]
        .into(),
        text: (id != "pineapple").then(|| FakeModel::vector(words)),
        image: Some(FakeModel::vector(words)),
        picture: Some(product(id)),
    };
    let hostile = FakeItem {
        id: "\"><script>window.hacked=1</script>".to_owned(),
        payload: [("title".to_owned(), HOSTILE.to_owned())].into(),
        text: Some(FakeModel::vector("hairy kiwi fruit")),
        ..FakeItem::default()
    };
    PRODUCTS.into_iter().map(shown).chain([hostile]).collect()
}

fn server() -> Running {
    server_with(false)
}

fn server_with(is_calibrated: bool) -> Running {
    let captions = PRODUCTS.map(|(id, _, words)| (product(id), words.to_owned()));
    let model = Arc::new(FakeModel::new(captions.into()));
    model.open_gate(); // no text shall wait here
    let store = FakeStore { items: items(), is_calibrated };
    Running::start(ServeConfig::default(), model, store)
}

/// The titles of the results, once the search of `act` has come back.
fn results(browser: &Browser, act: impl FnOnce()) -> Vec<String> {
    browser.run("document.getElementById('status').textContent = 'before';");
    act();
    browser.wait_for("return / results? · /.test(document.getElementById('status').textContent)");
    titles(browser)
}

fn titles(browser: &Browser) -> Vec<String> {
    let titles = browser.run("return [...document.querySelectorAll('h2')].map(h => h.textContent)");
    serde_json::from_value(titles).unwrap()
}

#[test]
fn the_page_finds_by_words_and_by_picture() {
    let Some(mut browser) = Browser::start() else { return };
    let server = server();
    browser.open(&format!("http://{}/", server.address));
    browser.wait_for("return document.getElementById('status').textContent.includes('10 items')");
    browser.screenshot("start");

    let found = results(&browser, || browser.type_into("#text", "red apple\u{e007}"));
    assert_eq!(found[0], "Pink Lady");
    let picture = "return document.querySelector('.hit img').src";
    assert_eq!(
        browser.run(picture),
        format!("http://{}/v1/items/pink-lady/picture", server.address)
    );
    browser.wait_for("return document.querySelector('.hit img').naturalWidth > 0");
    assert_eq!(browser.run("return location.search"), "?q=red+apple");
    browser.screenshot("results");

    // A file, as a person would choose it.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.jpg");
    fs_err::write(&path, product("galia-melon")).unwrap();
    let found = results(&browser, || browser.type_into("#file", path.to_str().unwrap()));
    assert_eq!(found[0], "Galia melon");

    // Words beside the picture move the query: "this, but a red apple".
    let found = results(&browser, || browser.type_into("#text", "red apple\u{e007}"));
    assert!(found[..3].contains(&"Galia melon".to_owned()), "{found:?}");
    assert!(found[..3].contains(&"Pink Lady".to_owned()), "{found:?}");
    browser.screenshot("mixed");

    // More like the item whose picture is clicked.
    let click = "[...document.querySelectorAll('.shot')].find(b => b.ariaLabel.includes(arguments[0])).click()";
    let found = results(&browser, || drop(browser.run_with(click, json!(["Galia"]))));
    assert_eq!(found[0], "Galia melon");
    assert_eq!(browser.run("return document.getElementById('text').value"), "");

    // Dropped on the page.
    let drop_file = "
        return fetch('/v1/items/aubergine/picture').then(r => r.blob()).then(blob => {
            const data = new DataTransfer();
            data.items.add(new File([blob], 'a.jpg', { type: 'image/jpeg' }));
            const options = { dataTransfer: data, bubbles: true, cancelable: true };
            document.body.dispatchEvent(new DragEvent('dragover', options));
            const shown = !document.getElementById('drop').hidden;
            document.body.dispatchEvent(new DragEvent('drop', options));
            return shown;
        })";
    let found = results(&browser, || assert_eq!(browser.run(drop_file), true));
    assert_eq!(found[0], "Aubergine");

    // Pasted.
    let paste = "
        return fetch('/v1/items/granny-smith/picture').then(r => r.blob()).then(blob => {
            const data = new DataTransfer();
            data.items.add(new File([blob], 'a.jpg', { type: 'image/jpeg' }));
            dispatchEvent(new ClipboardEvent('paste', { clipboardData: data, cancelable: true }));
        })";
    let found = results(&browser, || drop(browser.run(paste)));
    assert_eq!(found[0], "Granny Smith");
}

#[test]
fn the_page_searches_from_its_address_and_over_what_is_chosen() {
    let Some(mut browser) = Browser::start() else { return };
    let server = server();
    browser.open(&format!("http://{}/?q=yellow+pineapple+fruit", server.address));
    browser.wait_for("return document.querySelectorAll('.hit').length === 10");
    assert_eq!(titles(&browser)[0], "Pineapple");
    assert_eq!(
        browser.run("return document.getElementById('text').value"),
        "yellow pineapple fruit"
    );

    let choose = "document.querySelector('#over [value=text]').click()";
    let found = results(&browser, || drop(browser.run(choose)));
    assert!(!found.contains(&"Pineapple".to_owned()), "it has no text: {found:?}");
    assert_eq!(browser.run("return location.search"), "?q=yellow+pineapple+fruit&over=text");
    let found = results(&browser, || drop(browser.run("history.back()")));
    assert_eq!(found[0], "Pineapple");
}

#[test]
fn calibrated_hits_are_told_in_standard_deviations() {
    let Some(mut browser) = Browser::start() else { return };
    let server = server_with(true);
    browser.open(&format!("http://{}/?q=red+apple", server.address));
    browser.wait_for("return document.querySelectorAll('.hit').length === 10");
    let text = |selector| {
        browser
            .run_with("return document.querySelector(arguments[0]).textContent", json!([selector]))
    };
    assert_eq!(text(".score"), "10.0 σ");
    assert_eq!(text(".leg b"), "10.0 σ");
    browser.run("document.querySelector('details').open = true");
    let reason =
        "Scored by the mean of how far its text and its image stand out of unrelated items (σ).";
    assert_eq!(text("details p"), reason);
    assert_eq!(browser.run("return document.querySelector('.fill').style.width"), "100%");
    browser.screenshot("calibrated");

    // Over one part the score is its cosine, and so it is written.
    let choose = "document.querySelector('#over [value=image]').click()";
    results(&browser, || drop(browser.run(choose)));
    assert_eq!(text("details p"), "Scored by the cosine of the query with its image.");
}

#[test]
fn a_hostile_payload_is_shown_as_text() {
    let Some(mut browser) = Browser::start() else { return };
    let server = server();
    browser.open(&format!("http://{}/?q=hairy+kiwi+fruit", server.address));
    browser.wait_for("return document.querySelectorAll('.hit').length === 10");
    assert_eq!(titles(&browser)[0], HOSTILE);
    browser.run("document.querySelectorAll('details').forEach(d => d.open = true)");
    assert_eq!(browser.run("return window.hacked ?? null"), Value::Null);
    assert_eq!(browser.run("return document.querySelectorAll('#grid script').length"), 0);

    // Even markup that got in could not run: the policy forbids it.
    let inject = "
        document.body.insertAdjacentHTML('beforeend', '<img src=\"data:,\" onerror=\"window.hacked=1\">');
        const script = document.createElement('script');
        script.textContent = 'window.hacked = 1';
        document.body.append(script);
        return new Promise(done => setTimeout(() => done(window.hacked ?? null), 100));";
    assert_eq!(browser.run(inject), Value::Null);
}

#[test]
fn faults_are_told_on_the_page() {
    let Some(mut browser) = Browser::start() else { return };
    let server = server();
    browser.open(&format!("http://{}/?q=unreadable", server.address));
    let note = "return document.getElementById('note-text').textContent";
    browser.wait_for("return document.getElementById('status').classList.contains('bad')");
    assert_eq!(browser.run(note), "Cannot read this text: the fake model does not know it.");
    browser.screenshot("fault");

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes.txt");
    fs_err::write(&path, "not a picture").unwrap();
    browser.type_into("#file", path.to_str().unwrap());
    let status = "return document.getElementById('status').textContent";
    assert_eq!(browser.run(status), "This is not a JPEG, PNG, WebP or GIF image.");
}

#[test]
fn the_page_fits_a_phone_and_works_by_keyboard() {
    let Some(mut browser) = Browser::start() else { return };
    let server = server();
    for (name, width, dark) in
        [("phone", 375, false), ("phone-dark", 375, true), ("desktop-dark", 1280, true)]
    {
        browser.emulate(width, dark);
        browser.open(&format!("http://{}/?q=red+vegetable", server.address));
        browser.wait_for("return document.querySelectorAll('.hit').length === 10");
        browser.wait_for("return [...document.images].every(i => i.complete)");
        let overflow = "return document.documentElement.scrollWidth - innerWidth";
        assert!(browser.run(overflow).as_i64().unwrap() <= 0, "no sideways scrolling at {width}");
        browser.run("document.querySelector('details').open = true");
        browser.screenshot(name);
    }
    browser.run("document.activeElement.blur()");
    browser.press("/");
    assert_eq!(browser.run("return document.activeElement.id"), "text");
    let mut reached = Vec::new();
    for _ in 0..6 {
        browser.press("\u{e004}");
        let name =
            "const e = document.activeElement; return e.id || e.value || e.className || e.tagName";
        reached.push(browser.run(name).as_str().unwrap().to_owned());
    }
    assert_eq!(reached, ["file", "go", "fused", "shot", "SUMMARY", "shot"]);
    let found = results(&browser, || browser.press("\u{e007}"));
    assert!(!found.is_empty(), "Enter on a picture finds more like it");
}

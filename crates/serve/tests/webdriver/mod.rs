//! A tiny client of the WebDriver protocol.
#![expect(clippy::print_stderr, reason = "a skipped test tells why")]

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::send;

/// The key under which the protocol names an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";
/// A browser on a busy machine is slow; what does not come in this time does not come.
const PATIENCE: Duration = Duration::from_secs(60);

/// A browser window without a screen.
pub(crate) struct Browser {
    driver: Child,
    address: String,
    session: String,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts Chromium, or tells why the test is skipped.
    pub(crate) fn start() -> Option<Self> {
        let (Some(chromium), Some(chromedriver)) =
            (find("CHROMIUM", "chromium"), find("CHROMEDRIVER", "chromedriver"))
        else {
            eprintln!(
                "skipped: needs Chromium and chromedriver (CHROMIUM, CHROMEDRIVER or the path)"
            );
            return None;
        };
        let mut driver = Command::new(chromedriver)
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = lines.map(Result::unwrap).find_map(|line| {
            Some(line.split_once("successfully on port ")?.1.trim_end_matches('.').to_owned())
        });
        let address = format!("127.0.0.1:{}", port.unwrap());
        let profile = tempfile::tempdir().unwrap();
        let mut browser = Self { driver, address, session: String::new(), _profile: profile };
        browser.begin(&chromium);
        Some(browser)
    }

    fn begin(&mut self, chromium: &std::path::Path) {
        let profile = format!("--user-data-dir={}", self._profile.path().display());
        let arguments = json!([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            "--window-size=1280,900",
            profile,
        ]);
        let options = json!({"binary": chromium, "args": arguments});
        let body = json!({"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}});
        let value = self.request("POST", "/session", &body);
        self.session = format!("/session/{}", value["sessionId"].as_str().unwrap());
    }

    fn request(&self, method: &str, path: &str, body: &Value) -> Value {
        let path = format!("{method} {}{path}", self.session);
        let headers = "Content-Type: application/json\r\n";
        let body = if method == "POST" { body.to_string() } else { String::new() };
        let answer = send(&self.address, &path, headers, body.as_bytes());
        let value = answer.json()["value"].take();
        assert_eq!((answer.status, answer.head.is_empty()), (200, false), "{path}: {value}");
        value
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        self.request("POST", path, body)
    }

    pub(crate) fn open(&mut self, url: &str) {
        self.post("/url", &json!({ "url": url }));
    }

    /// Runs a script in the page; a promise is waited for.
    pub(crate) fn run(&self, script: &str) -> Value {
        self.run_with(script, json!([]))
    }

    pub(crate) fn run_with(&self, script: &str, arguments: Value) -> Value {
        self.post("/execute/sync", &json!({"script": script, "args": arguments}))
    }

    /// Asks again until the script says true.
    #[track_caller]
    pub(crate) fn wait_for(&self, script: &str) {
        let start = Instant::now();
        while self.run(script) != true {
            let page = "return document.body.innerText";
            assert!(start.elapsed() < PATIENCE, "never: {script}; the page: {}", self.run(page));
        }
    }

    /// Types into an element, replacing what was there; into a file input, the file's path.
    pub(crate) fn type_into(&self, selector: &str, text: &str) {
        let found = self.post("/element", &json!({"using": "css selector", "value": selector}));
        let path = format!("/element/{}", found[ELEMENT].as_str().unwrap());
        if selector != "#file" {
            self.post(&format!("{path}/clear"), &json!({}));
        }
        self.post(&format!("{path}/value"), &json!({ "text": text }));
    }

    /// Presses a key, whatever has the focus.
    pub(crate) fn press(&self, key: &str) {
        let actions = ["keyDown", "keyUp"].map(|kind| json!({"type": kind, "value": key}));
        let keyboard = json!({"type": "key", "id": "keyboard", "actions": actions});
        self.post("/actions", &json!({ "actions": [keyboard] }));
    }

    /// Shows the page as on a screen of this width, light or dark.
    pub(crate) fn emulate(&self, width: u32, dark: bool) {
        let cdp = |cmd: &str, params: Value| {
            self.post("/goog/cdp/execute", &json!({"cmd": cmd, "params": params}));
        };
        let size =
            json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600});
        cdp("Emulation.setDeviceMetricsOverride", size);
        let scheme = if dark { "dark" } else { "light" };
        let feature = json!({"name": "prefers-color-scheme", "value": scheme});
        cdp("Emulation.setEmulatedMedia", json!({ "features": [feature] }));
    }

    /// Leaves a picture of the page in the folder asked for, if one is.
    pub(crate) fn screenshot(&self, name: &str) {
        let Some(folder) = std::env::var_os("CONJOIN_SCREENSHOTS") else { return };
        let picture = self.request("GET", "/screenshot", &Value::Null);
        let bytes = STANDARD.decode(picture.as_str().unwrap()).unwrap();
        fs_err::create_dir_all(&folder).unwrap();
        fs_err::write(PathBuf::from(folder).join(format!("{name}.png")), bytes).unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() {
            send(&self.address, &format!("DELETE {}", self.session), "", b"");
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// A program named by a variable, or on the path.
fn find(variable: &str, name: &str) -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Some(path.into());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

//! Where the hub and its cache are, by the environment variables that Python's `huggingface_hub` reads.
//!
//! In:  `HF_HUB_CACHE`, `HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN`, `HF_TOKEN_PATH`, `HF_HUB_OFFLINE`.
//! Out: [`HubConfig`].
//! Source: `huggingface_hub/constants.py`, version 1.33. Proxies (`HTTPS_PROXY`, `NO_PROXY`) and
//! certificates (`SSL_CERT_FILE`) are read by the connection.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::error::HubErrorKind;

const PUBLIC_HUB: &str = "https://huggingface.co";

/// Where models come from and where they are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubConfig {
    /// The folder that holds `models--owner--name`.
    pub cache: PathBuf,
    /// The hub's address, without a slash at its end.
    pub endpoint: String,
    /// The user's access token.
    pub token: Option<Token>,
    /// Use what is in the cache and open no connection.
    pub offline: bool,
    /// How long to wait for what.
    pub waits: Waits,
}

/// An access token. It is not shown when printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(pub(crate) String);

/// Pauses between attempts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waits {
    /// Before each further attempt after one that failed. Progress begins the list anew.
    pub retries: Vec<Duration>,
    /// Between looks whether another process is done with a file.
    pub lock: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        let retries = [1, 2, 4, 8, 16].map(Duration::from_secs).to_vec();
        Self { retries, lock: Duration::from_millis(200) }
    }
}

impl Token {
    /// A token without the blanks and line ends around it; `None` if nothing is left.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty()).then(|| Self(text.to_owned()))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl HubConfig {
    /// The settings of this process's environment.
    ///
    /// # Errors
    /// [`HubErrorKind`] when there is no home folder to keep the cache in, or the file of the token
    /// cannot be read.
    pub fn from_env() -> Result<Self, HubErrorKind> {
        Self::from_vars(|name| std::env::var(name).ok())
    }

    /// The settings of an environment. A variable that is empty counts as not set.
    ///
    /// # Errors
    /// As [`from_env`](Self::from_env).
    pub fn from_vars(var: impl Fn(&str) -> Option<String>) -> Result<Self, HubErrorKind> {
        let var = |name: &str| var(name).filter(|value| !value.is_empty());
        let user = var("HOME").or_else(|| var("USERPROFILE"));
        let path = |text: String| expanded(&text, user.as_deref());
        let home = || {
            var("HF_HOME").map(path).or_else(|| {
                let caches = var("XDG_CACHE_HOME").map(path);
                let caches = caches.or_else(|| Some(Path::new(user.as_deref()?).join(".cache")))?;
                Some(caches.join("huggingface"))
            })
        };
        let cache = var("HF_HUB_CACHE").or_else(|| var("HUGGINGFACE_HUB_CACHE")).map(path);
        let cache = cache.or_else(|| Some(home()?.join("hub"))).ok_or(HubErrorKind::NoHome)?;
        let token_file =
            var("HF_TOKEN_PATH").map(path).or_else(|| home().map(|home| home.join("token")));
        let token = match var("HF_TOKEN").or_else(|| var("HUGGING_FACE_HUB_TOKEN")) {
            Some(token) => Token::new(&token),
            None => token_file.map_or(Ok(None), |file| token_of(&file))?,
        };
        let endpoint = var("HF_ENDPOINT").unwrap_or_else(|| PUBLIC_HUB.to_owned());
        Ok(Self {
            cache,
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token,
            offline: ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"]
                .into_iter()
                .find_map(var)
                .is_some_and(|value| is_true(&value)),
            waits: Waits::default(),
        })
    }
}

/// A path whose leading `~` means the user's home.
fn expanded(text: &str, user: Option<&str>) -> PathBuf {
    match (text.strip_prefix("~/"), user) {
        (Some(rest), Some(user)) => Path::new(user).join(rest),
        _ => text.into(),
    }
}

fn is_true(value: &str) -> bool {
    ["1", "ON", "YES", "TRUE"].contains(&value.to_ascii_uppercase().as_str())
}

fn token_of(file: &Path) -> io::Result<Option<Token>> {
    match fs_err::read_to_string(file) {
        Ok(text) => Ok(Token::new(&text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(vars: &[(&str, &str)]) -> Result<HubConfig, HubErrorKind> {
        let value = |name: &str| vars.iter().find(|(key, _)| *key == name).map(|(_, v)| *v);
        HubConfig::from_vars(|name| value(name).map(str::to_owned))
    }

    #[test]
    fn the_cache_is_where_python_has_it() {
        let cache = |vars: &[(&str, &str)]| config(vars).unwrap().cache;
        let home = ("HOME", "/u/ann");
        assert_eq!(cache(&[home]), Path::new("/u/ann/.cache/huggingface/hub"));
        assert_eq!(cache(&[home, ("XDG_CACHE_HOME", "/c")]), Path::new("/c/huggingface/hub"));
        assert_eq!(cache(&[home, ("HF_HOME", "~/hf")]), Path::new("/u/ann/hf/hub"));
        assert_eq!(cache(&[("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/m")]), Path::new("/m"));
        assert_eq!(cache(&[home, ("HF_HOME", "")]), Path::new("/u/ann/.cache/huggingface/hub"));
        assert!(matches!(config(&[]), Err(HubErrorKind::NoHome)));
    }

    #[test]
    fn the_endpoint_and_offline_are_read() {
        let home = ("HOME", "/h");
        let plain = config(&[home]).unwrap();
        assert_eq!((plain.endpoint.as_str(), plain.offline), ("https://huggingface.co", false));
        let other = [home, ("HF_ENDPOINT", "http://localhost:9/"), ("HF_HUB_OFFLINE", "yes")];
        let other = config(&other).unwrap();
        assert_eq!((other.endpoint.as_str(), other.offline), ("http://localhost:9", true));
        assert!(!config(&[home, ("HF_HUB_OFFLINE", "0")]).unwrap().offline);
    }

    #[test]
    fn the_token_comes_from_the_variable_or_its_file_and_is_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().to_str().unwrap();
        assert_eq!(config(&[("HF_HOME", home)]).unwrap().token, None);
        fs_err::write(dir.path().join("token"), "hf_file\n").unwrap();
        fs_err::write(dir.path().join("other"), "hf_other").unwrap();
        let token = |vars: &[(&str, &str)]| config(vars).unwrap().token.unwrap();
        assert_eq!(token(&[("HF_HOME", home)]).0, "hf_file");
        let other = dir.path().join("other");
        let other = ("HF_TOKEN_PATH", other.to_str().unwrap());
        assert_eq!(token(&[("HF_HOME", home), other]).0, "hf_other");
        let set = token(&[("HF_HOME", home), ("HF_TOKEN", " hf_set ")]);
        assert_eq!(set.0, "hf_set");
        assert_eq!(format!("{set:?}"), "Token(…)");
    }
}

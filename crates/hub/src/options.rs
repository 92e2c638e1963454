use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

/// Where to download from and to. The default follows the environment as Python's huggingface_hub does: `HF_HOME`,
/// `HF_HUB_CACHE`, `XDG_CACHE_HOME`, `HF_ENDPOINT`, `HF_TOKEN`, `HF_TOKEN_PATH`, `HF_HUB_DISABLE_IMPLICIT_TOKEN`,
/// `HF_HUB_OFFLINE` and `HF_HUB_DOWNLOAD_TIMEOUT`. (Proxies: `ALL_PROXY`, `HTTPS_PROXY`, `NO_PROXY`.)
#[derive(Clone)]
pub struct HubOptions {
    /// Branch, tag or commit; `None` is `main`.
    pub revision: Option<String>,
    /// Flavour of the weights, such as `fp16`; components that lack it come as their plain file.
    pub variant: Option<String>,
    /// The cache folder, usually `~/.cache/huggingface/hub`.
    pub cache_dir: Option<PathBuf>,
    /// Another server than the usual one, e.g. a mirror.
    pub endpoint: Option<String>,
    /// Access token for private and gated models. Sent to the endpoint only, not to where it redirects.
    pub token: Option<String>,
    /// Use the cache only.
    pub offline: bool,
    /// How often a failed request is tried again. Counts anew whenever a file has got on by a MiB.
    pub retries: u32,
    /// Pause before the first retry; it doubles each time, up to 30 s.
    pub backoff: Duration,
    /// How long a server may stay silent.
    pub timeout: Duration,
}

impl Default for HubOptions {
    fn default() -> Self {
        Self::from_variables(|name| std::env::var(name).ok())
    }
}

impl HubOptions {
    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let get = |name: &str| variable(name).filter(|v| !v.trim().is_empty());
        let on = |name: &str| {
            get(name).is_some_and(|v| {
                matches!(v.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE")
            })
        };
        let home = || get("HOME").map(PathBuf::from).or_else(std::env::home_dir);
        let expand = |path: String| match (path.strip_prefix("~/"), home()) {
            (Some(rest), Some(home)) => home.join(rest),
            _ => PathBuf::from(path),
        };
        let folder = get("HF_HOME").map(expand).or_else(|| {
            let caches = get("XDG_CACHE_HOME").map(expand);
            Some(
                caches
                    .or_else(|| Some(home()?.join(".cache")))?
                    .join("huggingface"),
            )
        });
        let cache_dir = get("HF_HUB_CACHE")
            .or_else(|| get("HUGGINGFACE_HUB_CACHE"))
            .map(expand)
            .or_else(|| Some(folder.as_ref()?.join("hub")));
        let token_file = get("HF_TOKEN_PATH")
            .map(expand)
            .or_else(|| Some(folder.as_ref()?.join("token")));
        let token = || {
            get("HF_TOKEN")
                .or_else(|| get("HUGGING_FACE_HUB_TOKEN"))
                .or_else(|| std::fs::read_to_string(token_file?).ok())
                .map(|text| text.trim().to_owned())
                .filter(|text| !text.is_empty())
        };
        let timeout = get("HF_HUB_DOWNLOAD_TIMEOUT").and_then(|t| t.trim().parse().ok());
        Self {
            revision: None,
            variant: None,
            cache_dir,
            endpoint: get("HF_ENDPOINT"),
            token: if on("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
                None
            } else {
                token()
            },
            offline: on("HF_HUB_OFFLINE") || on("TRANSFORMERS_OFFLINE"),
            retries: 5,
            backoff: Duration::from_millis(500),
            timeout: Duration::from_secs(timeout.filter(|t| *t > 0).unwrap_or(30)),
        }
    }

    pub(crate) fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }

    pub(crate) fn cache_dir(&self) -> Option<&Path> {
        self.cache_dir.as_deref()
    }
}

/// Without the token, so that it does not end in a log.
impl fmt::Debug for HubOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubOptions")
            .field("revision", &self.revision)
            .field("variant", &self.variant)
            .field("cache_dir", &self.cache_dir)
            .field("endpoint", &self.endpoint)
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("offline", &self.offline)
            .field("retries", &self.retries)
            .field("backoff", &self.backoff)
            .field("timeout", &self.timeout)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(variables: &[(&str, &str)]) -> HubOptions {
        HubOptions::from_variables(|name| {
            let found = variables.iter().find(|(n, _)| *n == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_cache_folder() {
        let cases: [(&[(&str, &str)], &str); 6] = [
            (&[("HOME", "/u")], "/u/.cache/huggingface/hub"),
            (
                &[("HOME", "/u"), ("XDG_CACHE_HOME", "/x")],
                "/x/huggingface/hub",
            ),
            (&[("XDG_CACHE_HOME", "/x"), ("HF_HOME", "/h")], "/h/hub"),
            (&[("HOME", "/u"), ("HF_HOME", "~/h")], "/u/h/hub"),
            (&[("HF_HOME", "/h"), ("HUGGINGFACE_HUB_CACHE", "/o")], "/o"),
            (
                &[("HF_HUB_CACHE", "/c"), ("HUGGINGFACE_HUB_CACHE", "/o")],
                "/c",
            ),
        ];
        for (variables, expected) in cases {
            assert_eq!(options(variables).cache_dir, Some(expected.into()));
        }
    }

    #[test]
    fn tokens() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        std::fs::write(folder.path().join("token"), "from-file\n").unwrap();
        std::fs::write(folder.path().join("other"), "from-other").unwrap();
        let other = format!("{home}/other");
        let token = |more: &[(&str, &str)]| options(&[&[("HF_HOME", home)], more].concat()).token;
        assert_eq!(token(&[]).as_deref(), Some("from-file"));
        assert_eq!(token(&[("HF_TOKEN", " t\n")]).as_deref(), Some("t"));
        assert_eq!(token(&[("HF_TOKEN", "")]).as_deref(), Some("from-file"));
        assert_eq!(
            token(&[("HF_TOKEN_PATH", &other)]).as_deref(),
            Some("from-other")
        );
        assert_eq!(token(&[("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), None);
        assert_eq!(token(&[("HF_TOKEN_PATH", "/nowhere")]), None);
    }

    #[test]
    fn switches_and_numbers() {
        for (value, expected) in [
            ("1", true),
            ("true", true),
            ("On", true),
            ("0", false),
            ("", false),
        ] {
            assert_eq!(
                options(&[("HF_HUB_OFFLINE", value)]).offline,
                expected,
                "{value}"
            );
        }
        assert_eq!(options(&[]).timeout, Duration::from_secs(30));
        let timeout = |t| options(&[("HF_HUB_DOWNLOAD_TIMEOUT", t)]).timeout.as_secs();
        assert_eq!((timeout("7"), timeout("0"), timeout("x")), (7, 30, 30));
        assert_eq!(
            options(&[("HF_ENDPOINT", "http://m")]).endpoint.as_deref(),
            Some("http://m")
        );
    }

    #[test]
    fn the_token_is_not_printed() {
        let options = options(&[("HF_TOKEN", "secret")]);
        assert_eq!(options.token.as_deref(), Some("secret"));
        assert!(!format!("{options:?}").contains("secret"));
    }
}

use std::{collections::BTreeMap, time::Duration};

use hf_hub::{Cache, Repo, RepoType, api::sync::ApiBuilder};
use serde::Deserialize;
use ureq::{
    Agent, Body,
    http::{Response, StatusCode},
};

use crate::{HubError, HubOptions, names, retry::Failure};

const MOST_REDIRECTS: usize = 8;
/// Of a listing; the longest known ones have a few MB.
const MOST_JSON: u64 = 64 << 20;

/// One model on a server.
pub(crate) struct Remote {
    agent: Agent,
    /// Without a slash at its end.
    endpoint: String,
    id: String,
    revision: String,
    token: Option<String>,
}

/// What a revision consists of.
pub(crate) struct Listing {
    pub(crate) commit: String,
    /// Paths, and sizes where the server tells them.
    pub(crate) files: BTreeMap<String, Option<u64>>,
}

/// What the server says about a file before it is downloaded.
#[derive(Debug)]
pub(crate) struct Metadata {
    /// Name of the content: its sha256 if the file is in large-file storage, else git's hash.
    pub(crate) etag: String,
    pub(crate) size: u64,
}

impl Metadata {
    pub(crate) fn sha256(&self) -> Option<&str> {
        let hex = self.etag.len() == 64 && self.etag.bytes().all(|b| b.is_ascii_hexdigit());
        hex.then_some(&self.etag)
    }
}

/// A file's content on its way.
pub(crate) struct Content {
    pub(crate) body: Body,
    /// Where in the file it starts.
    pub(crate) start: u64,
    /// Bytes of the whole file, if this answer tells them.
    pub(crate) total: Option<u64>,
}

#[derive(Deserialize)]
struct Info {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
}

impl Remote {
    pub(crate) fn new(id: &str, options: &HubOptions) -> Result<Self, HubError> {
        let endpoint = endpoint(id, options)?;
        let plain = |token: &String| token.bytes().all(|b| b.is_ascii_graphic());
        if !options.token.as_ref().is_none_or(plain) {
            return Err(HubError::Token);
        }
        let config = Agent::config_builder()
            // Statuses and redirects are read here: a redirect's headers describe the file, and the token must not travel.
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            // Lengths and ranges are those of the file only if nobody compresses on the way.
            .accept_encoding("identity")
            .user_agent(concat!("i2vgen-hub/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(options.timeout))
            .timeout_recv_response(Some(options.timeout))
            .timeout_per_read(Some(options.timeout))
            .build();
        Ok(Self {
            agent: config.new_agent(),
            endpoint,
            id: id.to_owned(),
            revision: options.revision().to_owned(),
            token: options.token.clone(),
        })
    }

    /// Which commit the revision is, and its files.
    pub(crate) fn listing(&self) -> Result<Listing, Failure> {
        let repo = self.repo(&self.revision);
        let url = format!("{}/api/{}?blobs=true", self.endpoint, repo.api_url());
        let (mut answer, at) = self.request(false, &url, 0)?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => {
                return Err(Failure::from(HubError::NotFound {
                    id: self.id.clone(),
                    revision: self.revision.clone(),
                    host: host(&self.endpoint),
                }));
            }
            _ => return Err(self.refusal(&answer, &at, &self.id)),
        }
        let text = answer
            .body_mut()
            .with_config()
            .limit(MOST_JSON)
            .read_to_string()
            .map_err(|e| unreachable(&at, e))?;
        let info: Info = serde_json::from_str(&text)
            .map_err(|e| bad(&at, format!("no description of a model ({e})")))?;
        if !names::is_commit(&info.sha) {
            return Err(bad(&at, format!("'{}' is no commit", info.sha)).into());
        }
        let mut files = BTreeMap::new();
        for Sibling { rfilename, size } in info.siblings {
            if !names::stays_inside(&rfilename) {
                return Err(HubError::UnsafePath(rfilename).into());
            }
            files.insert(rfilename, size);
        }
        Ok(Listing {
            commit: info.sha,
            files,
        })
    }

    /// Hash and size of a file; `listed` is the size in the listing.
    pub(crate) fn metadata(
        &self,
        commit: &str,
        name: &str,
        listed: Option<u64>,
    ) -> Result<Metadata, Failure> {
        let (answer, at) = self.request(true, &self.url(commit, name), 0)?;
        let status = answer.status();
        if !status.is_success() && !status.is_redirection() {
            return Err(self.refusal(&answer, &at, name));
        }
        let etag = header(&answer, "x-linked-etag")
            .or_else(|| header(&answer, "etag"))
            .ok_or_else(|| bad(&at, format!("no ETag for {name}")))?;
        let etag = etag.trim_start_matches("W/").trim_matches('"');
        if !names::is_word(etag) || etag.len() > 128 {
            return Err(bad(&at, format!("the ETag '{etag}' for {name}")).into());
        }
        // The length of a redirect is that of its own body.
        let length = || header(&answer, "content-length").filter(|_| status.is_success());
        let told = header(&answer, "x-linked-size").or_else(length);
        let told = told.and_then(|text| text.parse().ok());
        match (told, listed) {
            (Some(told), Some(listed)) if told != listed => Err(Failure::passing(HubError::Size {
                name: name.to_owned(),
                expected: listed,
                got: told,
            })),
            (Some(size), _) | (None, Some(size)) => Ok(Metadata {
                etag: etag.to_ascii_lowercase(),
                size,
            }),
            (None, None) => Err(bad(&at, format!("no size for {name}")).into()),
        }
    }

    /// A file's content from byte `from` on, or from 0 if the server does not care.
    pub(crate) fn content(&self, commit: &str, name: &str, from: u64) -> Result<Content, Failure> {
        let (answer, at) = self.request(false, &self.url(commit, name), from)?;
        let range = header(&answer, "content-range").and_then(parse_range);
        let (start, total) = match (answer.status(), range) {
            (StatusCode::OK, _) => (0, body_length(&answer)),
            (StatusCode::PARTIAL_CONTENT, Some((start, total))) => (
                start,
                total.or_else(|| start.checked_add(body_length(&answer)?)),
            ),
            (StatusCode::PARTIAL_CONTENT, None) => {
                return Err(Failure::passing(bad(&at, "a part of unknown place".into())));
            }
            _ => return Err(self.refusal(&answer, &at, name)),
        };
        Ok(Content {
            body: answer.into_body(),
            start,
            total,
        })
    }

    /// One request, and where its answer comes from in the end. A HEAD request stops where it would leave the endpoint's
    /// host: that redirect describes the file. The token stays on that host in any case.
    fn request(
        &self,
        head: bool,
        url: &str,
        from: u64,
    ) -> Result<(Response<Body>, String), Failure> {
        let mut url = url.to_owned();
        for _ in 0..MOST_REDIRECTS {
            let mut request = if head {
                self.agent.head(&url)
            } else {
                self.agent.get(&url)
            };
            if let Some(token) = self.token.as_deref().filter(|_| self.is_home(&url)) {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            if from > 0 {
                request = request.header("range", format!("bytes={from}-"));
            }
            let answer = request.call().map_err(|e| unreachable(&url, e))?;
            let location = match header(&answer, "location") {
                Some(location) if answer.status().is_redirection() => location,
                _ => return Ok((answer, url)),
            };
            let next = join(&url, location)?;
            if head && !self.is_home(&next) {
                return Ok((answer, url));
            }
            url = next;
        }
        Err(bad(&url, "too many redirects".into()).into())
    }

    fn is_home(&self, url: &str) -> bool {
        origin(url) == origin(&self.endpoint)
    }

    fn refusal(&self, answer: &Response<Body>, url: &str, what: &str) -> Failure {
        let status = answer.status().as_u16();
        let home = self.is_home(url);
        let error = match status {
            401 | 403 if home => HubError::Denied {
                id: self.id.clone(),
                status,
            },
            404 if home => HubError::MissingFile {
                id: self.id.clone(),
                name: what.to_owned(),
            },
            _ => HubError::Status {
                host: host(url),
                status,
                what: what.to_owned(),
            },
        };
        // Elsewhere, links expire; the endpoint gives a new one. 416 comes from a bad beginning, which is dropped.
        let again = status >= 500 || matches!(status, 408 | 416 | 429) || !home;
        let after = header(answer, "retry-after").and_then(|text| text.parse().ok());
        Failure {
            error,
            again,
            after: after.map(Duration::from_secs),
        }
    }

    fn repo(&self, revision: &str) -> Repo {
        Repo::with_revision(self.id.clone(), RepoType::Model, revision.to_owned())
    }

    fn url(&self, commit: &str, name: &str) -> String {
        let repo = self.repo(commit);
        format!(
            "{}/{}/resolve/{}/{name}",
            self.endpoint,
            repo.url(),
            repo.url_revision()
        )
    }

    /// For messages.
    pub(crate) fn host(&self) -> String {
        host(&self.endpoint)
    }
}

/// The wanted server, or the one that hf-hub knows.
fn endpoint(id: &str, options: &HubOptions) -> Result<String, HubError> {
    let invalid = |value: &str| HubError::Invalid {
        what: "HF_ENDPOINT",
        value: value.to_owned(),
        hint: "it looks like 'https://host'",
    };
    if let Some(endpoint) = &options.endpoint {
        let endpoint = endpoint.trim().trim_end_matches('/');
        let valid = origin(endpoint).is_some() && !endpoint.contains(['?', '#']);
        return valid
            .then(|| endpoint.to_owned())
            .ok_or_else(|| invalid(endpoint));
    }
    // hf-hub does not tell its endpoint, but every URL begins with it.
    let api = ApiBuilder::from_cache(Cache::new(options.cache_dir.clone().unwrap_or_default()))
        .with_token(None)
        .build()
        .map_err(|e| invalid(&e.to_string()))?;
    let url = api.model(id.to_owned()).url("");
    let end = url.find(&format!("/{id}/")).ok_or_else(|| invalid(&url))?;
    Ok(url[..end].to_owned())
}

/// `scheme://host:port` of a URL.
fn origin(url: &str) -> Option<&str> {
    let rest = url
        .strip_prefix("https://")
        .or_else(|| url.strip_prefix("http://"))?;
    let authority = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    // Something before an `@` only hides where a link leads.
    let plain = authority > 0 && !rest[..authority].contains('@');
    plain.then(|| &url[..url.len() - rest.len() + authority])
}

/// For messages; the rest of a URL may hold signatures.
fn host(url: &str) -> String {
    origin(url).unwrap_or(url).to_owned()
}

/// Where a redirect leads: to a whole URL, or to a path on the same host.
fn join(url: &str, location: &str) -> Result<String, HubError> {
    let next = if location.starts_with('/') && !location.starts_with("//") {
        format!("{}{location}", origin(url).unwrap_or_default())
    } else {
        location.to_owned()
    };
    let downgrade = url.starts_with("https:") && !next.starts_with("https:");
    if origin(&next).is_none() || downgrade {
        return Err(bad(url, format!("a redirect to '{}'", host(&next))));
    }
    Ok(next)
}

fn header<'a>(answer: &'a Response<Body>, name: &str) -> Option<&'a str> {
    answer.headers().get(name)?.to_str().ok()
}

fn body_length(answer: &Response<Body>) -> Option<u64> {
    header(answer, "content-length")?.parse().ok()
}

/// `bytes 5-9/10` → first byte and the whole size.
fn parse_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    Some((start.parse().ok()?, total.parse().ok()))
}

fn bad(url: &str, reason: String) -> HubError {
    HubError::BadAnswer {
        host: host(url),
        reason,
    }
}

/// A connection that could not be made or kept.
pub(crate) fn unreachable(url: &str, error: ureq::Error) -> Failure {
    use ureq::Error;
    // Neither a wrong certificate nor a wrong proxy gets better by waiting.
    let lasting = matches!(
        error,
        Error::BadUri(_)
            | Error::Http(_)
            | Error::InvalidProxyUrl
            | Error::Rustls(_)
            | Error::Tls(_)
    );
    Failure {
        error: HubError::Unreachable {
            host: host(url),
            reason: error.to_string(),
        },
        again: !lasting,
        after: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_endpoint_is_hf_hubs() {
        let options = HubOptions {
            endpoint: None,
            cache_dir: Some("/nowhere/hub".into()),
            ..HubOptions::default()
        };
        let found = endpoint("a/b", &options).unwrap();
        assert!(
            found.starts_with("https://") && !found.ends_with('/'),
            "{found}"
        );
        let api = ApiBuilder::from_cache(Cache::new("/nowhere/hub".into()))
            .build()
            .unwrap();
        let url = api.model("a/b".into()).url("c.json");
        assert_eq!(url, format!("{found}/a/b/resolve/main/c.json"));
    }

    #[test]
    fn endpoints_of_the_user() {
        let of = |text: &str| {
            let options = HubOptions {
                endpoint: Some(text.to_owned()),
                ..HubOptions::default()
            };
            endpoint("a/b", &options)
        };
        assert_eq!(of("http://m:80/hf/").unwrap(), "http://m:80/hf");
        for text in ["m", "ftp://m", "https://", "https://a@m", "https://m?x"] {
            assert!(
                of(text).unwrap_err().to_string().contains("HF_ENDPOINT"),
                "{text}"
            );
        }
    }

    #[test]
    fn redirects() {
        let to = |location: &str| join("https://a.b/c/d", location);
        assert_eq!(to("/x/y?z").unwrap(), "https://a.b/x/y?z");
        assert_eq!(to("https://e/f").unwrap(), "https://e/f");
        for location in [
            "http://e/f",
            "//e/f",
            "x",
            "",
            "file:///etc/passwd",
            "https://a@e/f",
        ] {
            assert!(to(location).is_err(), "{location}");
        }
        assert_eq!(origin("http://h:1?x"), Some("http://h:1"));
    }

    #[test]
    fn ranges() {
        assert_eq!(parse_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(parse_range("bytes 5-9/*"), Some((5, None)));
        for text in ["", "bytes", "bytes */10", "bytes -1-2/3", "items 1-2/3"] {
            assert_eq!(parse_range(text), None, "{text}");
        }
    }
}

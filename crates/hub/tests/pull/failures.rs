use std::{fs, time::Duration};

use i2vgen_hub::{HubError, HubOptions};
use i2vgen_tests::hub_server::{COMMIT, Fault, sha256};

use crate::{Place, UNET, content, model, plain_files};

fn range(from: usize) -> Option<String> {
    Some(format!("bytes={from}-"))
}

fn blob() -> String {
    sha256(&model()[UNET])
}

#[test]
fn a_broken_connection_continues_where_it_stopped() {
    let place = Place::new();
    place.server.fail(UNET, &[Fault::Cut(300), Fault::Cut(200)]);
    let (result, events) = place.events(place.options());
    place.check(&result.unwrap(), &plain_files());
    assert_eq!(place.server.ranges(UNET), [None, range(300), range(500)]);
    assert_eq!(events.iter().filter(|e| e.starts_with("retry")).count(), 2);
}

#[test]
fn the_next_pull_continues_too() {
    let place = Place::new();
    place.server.fail(UNET, &[Fault::Cut(300)]);
    let options = HubOptions {
        retries: 0,
        ..place.options()
    };
    assert!(place.refused(options).contains("parts are kept"));
    assert_eq!(place.incomplete(), [format!("{}.incomplete", blob())]);
    assert!(!place.repo().join("refs/main").exists());
    assert!(!place.repo().join("blobs").join(blob()).exists());
    place.server.requests();
    let (result, events) = place.events(place.options());
    place.check(&result.unwrap(), &plain_files());
    assert_eq!(place.server.ranges(UNET), [range(300)]);
    let at = events.iter().position(|e| e.contains(UNET)).unwrap();
    assert_eq!(events[at + 1], "bytes 300");
}

#[test]
fn progress_renews_the_retries() {
    let mut files = model();
    const MIB: usize = 1 << 20;
    files.insert(UNET.into(), content(UNET, 5 * MIB));
    let place = Place::with(files);
    place.server.fail(UNET, &[Fault::Cut(MIB + 9); 4]);
    let options = HubOptions {
        retries: 1,
        ..place.options()
    };
    place.check(&place.pull_with(options).unwrap(), &plain_files());
    let from = |n| range(n * (MIB + 9));
    assert_eq!(
        place.server.ranges(UNET),
        [None, from(1), from(2), from(3), from(4)]
    );
}

#[test]
fn a_server_without_ranges_sends_everything_again() {
    let place = Place::new();
    place
        .server
        .fail(UNET, &[Fault::Cut(300), Fault::IgnoreRange]);
    place.check(&place.pull().unwrap(), &plain_files());
    assert_eq!(place.server.ranges(UNET), [None, range(300)]);
}

#[test]
fn another_part_than_asked_for_is_not_taken() {
    let place = Place::new();
    place
        .server
        .fail(UNET, &[Fault::Cut(300), Fault::WrongRange]);
    place.check(&place.pull().unwrap(), &plain_files());
    assert_eq!(place.server.ranges(UNET), [None, range(300), None]);
}

#[test]
fn a_bad_beginning_is_dropped() {
    for beginning in [vec![7; 300], vec![7; model()[UNET].len()], vec![7; 9999]] {
        let place = Place::new();
        let blobs = place.repo().join("blobs");
        fs::create_dir_all(&blobs).unwrap();
        fs::write(blobs.join(blob() + ".incomplete"), beginning).unwrap();
        place.check(&place.pull().unwrap(), &plain_files());
    }
}

#[test]
fn a_finished_part_is_not_fetched_again() {
    let place = Place::new();
    let blobs = place.repo().join("blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join(blob() + ".incomplete"), &model()[UNET]).unwrap();
    place.check(&place.pull().unwrap(), &plain_files());
    assert!(place.server.ranges(UNET).is_empty());
}

#[test]
fn damage_once_is_repaired() {
    let place = Place::new();
    place.server.fail(UNET, &[Fault::Corrupt]);
    place.check(&place.pull().unwrap(), &plain_files());
    assert_eq!(place.server.ranges(UNET), [None, None]);
}

#[test]
fn damage_again_and_again_leaves_nothing() {
    let place = Place::new();
    place.server.fail(UNET, &[Fault::Corrupt; 9]);
    let error = place.refused(place.options());
    assert!(
        error.contains("damaged") && error.contains(&blob()),
        "{error}"
    );
    assert_eq!(place.server.ranges(UNET), [None, None, None]);
    assert!(
        !place.blobs().iter().any(|b| b.starts_with(&blob())),
        "no part of it is kept"
    );
    assert!(
        !place
            .repo()
            .join("snapshots")
            .join(COMMIT)
            .join(UNET)
            .exists()
    );
    assert!(!place.repo().join("refs/main").exists());
}

#[test]
fn lies_about_sizes() {
    let size = model()[UNET].len();
    let faults = [
        (Fault::Longer(5), size + 5),
        (Fault::Longer(-5), size - 5),
        (Fault::Unbounded, size + 1),
    ];
    for (fault, got) in faults {
        let place = Place::new();
        place.server.fail(UNET, &[fault; 9]);
        match place.pull().unwrap_err() {
            HubError::Size {
                name,
                expected,
                got: found,
            } => {
                assert_eq!(
                    (name.as_str(), expected, found),
                    (UNET, size as u64, got as u64)
                );
            }
            error => panic!("{fault:?}: {error}"),
        }
        assert!(!place.repo().join("blobs").join(blob()).exists());
        // Only once: the next answer is right.
        place.server.fail(UNET, &[fault]);
        place.check(&place.pull().unwrap(), &plain_files());
    }
    // The listing and the file's own answer differ.
    let place = Place::new();
    place.server.state().lies.insert(UNET.into(), (blob(), 7));
    assert!(
        place
            .refused(place.options())
            .contains("but the server sends 7")
    );
    // A small file, which has no published sha256, has its size checked as well.
    let place = Place::new();
    place.server.fail("vae/config.json", &[Fault::Cut(5); 9]);
    assert!(place.pull().is_err());
    assert!(
        !place
            .repo()
            .join("snapshots")
            .join(COMMIT)
            .join("vae/config.json")
            .exists()
    );
    assert_eq!(place.incomplete(), [""; 0], "nobody can continue it");
}

#[test]
fn servers_recover() {
    let place = Place::new();
    place.server.state().listing_faults = [500, 503].into();
    place
        .server
        .fail(UNET, &[Fault::Status(500), Fault::Status(502)]);
    let (result, events) = place.events(place.options());
    place.check(&result.unwrap(), &plain_files());
    let retries: Vec<_> = events.iter().filter(|e| e.starts_with("retry")).collect();
    assert_eq!(retries.len(), 4);
    assert!(retries[0].starts_with("retry 1") && retries[1].starts_with("retry 0"));
}

#[test]
fn servers_that_do_not_recover() {
    let place = Place::new();
    place.server.state().listing_faults = [500; 9].into();
    assert!(
        place
            .refused(place.options())
            .contains("answers 500 for owner/model")
    );
    assert_eq!(place.server.requests().len(), 3);
    // An expired link is asked for anew.
    place.server.state().listing_faults.clear();
    place.server.fail(UNET, &[Fault::Status(403)]);
    place.check(&place.pull().unwrap(), &plain_files());
}

#[test]
fn silence_ends() {
    let place = Place::new();
    place.server.fail(UNET, &[Fault::Stall(300)]);
    let options = HubOptions {
        timeout: Duration::from_millis(400),
        ..place.options()
    };
    place.check(&place.pull_with(options).unwrap(), &plain_files());
    assert_eq!(place.server.ranges(UNET), [None, range(300)]);
}

#[test]
fn what_does_not_exist() {
    let place = Place::new();
    let pull = |id: &str, options: HubOptions| {
        i2vgen_hub::pull(id, &options, &mut |_| {})
            .unwrap_err()
            .to_string()
    };
    assert!(pull("owner/other", place.options()).contains("no model 'owner/other'"));
    let options = HubOptions {
        revision: Some("v2".into()),
        ..place.options()
    };
    assert!(place.refused(options).contains("with revision 'v2'"));
    assert_eq!(place.server.requests().len(), 2, "no sense in trying again");
    // A model without what its index names, one without an index, and one whose index is listed but not there.
    place.server.state().listing = Some(format!(
        r#"{{"sha":"{COMMIT}","siblings":[{{"rfilename":"model_index.json"}},{{"rfilename":"gone"}}]}}"#
    ));
    assert!(
        place
            .refused(place.options())
            .contains("has no feature_extractor/")
    );
    place.server.state().listing = Some(format!(r#"{{"sha":"{COMMIT}","siblings":[]}}"#));
    assert!(
        place
            .refused(place.options())
            .contains("has no model_index.json")
    );
    let place = Place::new();
    place.server.state().files.remove("model_index.json");
    place.server.state().listing = Some(format!(
        r#"{{"sha":"{COMMIT}","siblings":[{{"rfilename":"model_index.json"}}]}}"#
    ));
    assert!(
        place
            .refused(place.options())
            .contains("has no model_index.json")
    );
}

#[test]
fn names_and_words_that_cannot_be() {
    let place = Place::new();
    let bad: [fn(&mut HubOptions); 3] = [
        |o| o.revision = Some("../x".into()),
        |o| o.variant = Some("a/b".into()),
        |o| o.endpoint = Some("nowhere".into()),
    ];
    for change in bad {
        let mut options = place.options();
        change(&mut options);
        assert!(place.refused(options).contains("is not a valid"));
    }
    for token in ["s3cret\n2", "s3 cret", "s3crét"] {
        let options = HubOptions {
            token: Some(token.into()),
            ..place.options()
        };
        let error = place.refused(options);
        assert!(
            error.contains("HF_TOKEN") && !error.contains("s3"),
            "{error}"
        );
    }
    let result = i2vgen_hub::pull("../x", &place.options(), &mut |_| {});
    assert!(result.unwrap_err().to_string().contains("model name"));
    let options = HubOptions {
        cache_dir: None,
        ..place.options()
    };
    assert!(place.refused(options).contains("HF_HOME"));
    assert!(place.server.requests().is_empty());
}

#[test]
fn answers_that_lead_outside_are_refused() {
    let place = Place::new();
    for name in [
        "../evil",
        "unet/../../evil",
        "/etc/evil",
        "a\\\\..\\\\evil",
        "C:/evil",
    ] {
        place.server.state().listing = Some(format!(
            r#"{{"sha":"{COMMIT}","siblings":[{{"rfilename":"model_index.json"}},{{"rfilename":"{name}"}}]}}"#
        ));
        assert!(
            place.refused(place.options()).contains("no safe path"),
            "{name}"
        );
    }
    for sha in ["../../evil", "", "main"] {
        place.server.state().listing = Some(format!(r#"{{"sha":"{sha}","siblings":[]}}"#));
        assert!(
            place.refused(place.options()).contains("is no commit"),
            "{sha}"
        );
    }
    for text in ["", "<html>", "[]", "{}"] {
        place.server.state().listing = Some(text.into());
        assert!(
            place
                .refused(place.options())
                .contains("no description of a model"),
            "{text}"
        );
    }
    place.server.state().listing = None;
    // A slot, a shard and an ETag.
    let index = crate::MODEL_INDEX.replace("\"unet\"", "\"../../evil\"");
    place
        .server
        .state()
        .files
        .insert("model_index.json".into(), index.into());
    assert!(place.refused(place.options()).contains("no safe path"));
    let place = Place::new();
    let shards = r#"{"weight_map":{"a":"../../../../evil.safetensors"}}"#;
    place
        .server
        .state()
        .files
        .insert(format!("{UNET}.index.json"), shards.into());
    assert!(place.refused(place.options()).contains("no safe path"));
    let place = Place::new();
    let size = model()[UNET].len();
    place
        .server
        .state()
        .lies
        .insert(UNET.into(), ("../../../evil".into(), size));
    assert!(place.refused(place.options()).contains("the ETag"));
    // And none of them wrote anything outside.
    for entry in crate::tree(place.cache.path()) {
        assert!(!entry.contains("evil"), "{entry}");
    }
}

#[test]
fn a_cache_that_cannot_be_written() {
    let place = Place::new();
    let file = place.cache.path().join("file");
    fs::write(&file, "").unwrap();
    let options = HubOptions {
        cache_dir: Some(file),
        ..place.options()
    };
    let error = place.pull_with(options).unwrap_err();
    assert!(matches!(error, HubError::Io { .. }), "{error}");
}

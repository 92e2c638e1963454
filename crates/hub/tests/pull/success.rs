use std::fs;

use i2vgen_hub::HubOptions;
use i2vgen_tests::hub_server::{COMMIT, Request, etag, is_large, nobody, sha256};

use crate::{MODEL_INDEX, Place, UNET, UNET_FP16, content, model, plain_files, tree};

#[test]
fn only_what_is_needed_in_the_standard_layout() {
    let place = Place::new();
    let folder = place.pull().unwrap();
    assert_eq!(folder, place.repo().join("snapshots").join(COMMIT));
    place.check(&folder, &plain_files());
    let main = fs::read_to_string(place.repo().join("refs/main")).unwrap();
    assert_eq!(main, COMMIT);
    for (name, content) in model() {
        let blob = place.repo().join("blobs").join(etag(&name, &content));
        assert_eq!(blob.is_file(), plain_files().contains(&name), "{name}");
    }
    if cfg!(unix) {
        let hash = sha256(&model()[UNET]);
        let link = fs::read_link(folder.join(UNET)).unwrap();
        assert_eq!(link.to_str().unwrap(), format!("../../../blobs/{hash}"));
        let link = fs::read_link(folder.join("model_index.json")).unwrap();
        assert!(link.starts_with("../../blobs"));
    }
    // Two requests and one to the storage for each large file; what is not needed is not even asked for.
    let requests = place.server.requests();
    let stored: Vec<_> = requests.iter().filter(|r| r.storage).collect();
    assert_eq!(
        stored.len(),
        plain_files().iter().filter(|f| is_large(f)).count()
    );
    for request in &requests {
        assert!(!request.path.contains("models/i2v") && !request.path.contains(".png"));
        assert!(!request.path.contains("fp16") && !request.path.contains("README"));
    }
}

#[test]
fn a_second_pull_downloads_nothing() {
    let place = Place::new();
    let first = place.pull().unwrap();
    place.server.requests();
    let (second, events) = place.events(place.options());
    assert_eq!(second.unwrap(), first);
    assert_eq!(events, [""; 0]);
    assert_eq!(place.server.requests().len(), 1, "only the listing");
}

#[test]
fn what_is_lost_or_cut_comes_again_and_nothing_else() {
    let place = Place::new();
    let folder = place.pull().unwrap();
    let blob = place.repo().join("blobs").join(sha256(&model()[UNET]));
    for damage in [true, false] {
        if damage {
            fs::write(&blob, "short").unwrap();
        } else {
            fs::remove_file(&blob).unwrap();
        }
        let (result, events) = place.events(place.options());
        place.check(&result.unwrap(), &plain_files());
        let size = model()[UNET].len();
        assert_eq!(events[0], format!("start 1 {size}"));
        assert_eq!(events[1], format!("file {UNET} 1/1 {size}"));
    }
    assert_eq!(tree(&folder), plain_files());
}

#[test]
fn the_variant_where_there_is_one() {
    let place = Place::new();
    let options = HubOptions {
        variant: Some("fp16".into()),
        ..place.options()
    };
    let folder = place.pull_with(options).unwrap();
    let mut expected = plain_files();
    for file in &mut expected {
        let variant = file.replace(".safetensors", ".fp16.safetensors");
        if model().contains_key(&variant) {
            *file = variant;
        }
    }
    expected.sort();
    assert!(expected.contains(&UNET_FP16.to_owned()));
    // The VAE has no fp16 file here.
    assert!(expected.contains(&"vae/diffusion_pytorch_model.safetensors".to_owned()));
    place.check(&folder, &expected);
    assert!(place.server.ranges(UNET).is_empty());
    // Then the plain ones: only the three that differ are added.
    place.server.requests();
    place.pull().unwrap();
    assert_eq!(
        place.server.requests().iter().filter(|r| r.storage).count(),
        3
    );
}

#[test]
fn shards_are_read_from_the_index() {
    let mut files = model();
    files.remove(UNET);
    let index = r#"{"metadata":{},"weight_map":{"a":"x-1.safetensors","b":"x-2.safetensors","c":"x-1.safetensors"}}"#;
    files.insert(format!("{UNET}.index.json"), index.into());
    for shard in ["x-1", "x-2", "x-3"] {
        let name = format!("unet/{shard}.safetensors");
        files.insert(name.clone(), content(&name, 500));
    }
    let place = Place::with(files);
    let folder = place.pull().unwrap();
    let mut expected = plain_files();
    expected.retain(|f| f != UNET);
    expected.extend([format!("{UNET}.index.json")]);
    expected.extend(["x-1", "x-2"].map(|s| format!("unet/{s}.safetensors")));
    expected.sort();
    place.check(&folder, &expected);
    // Offline, a shard that is not there is noticed.
    let offline = || HubOptions {
        offline: true,
        ..place.options()
    };
    assert_eq!(place.pull_with(offline()).unwrap(), folder);
    fs::remove_file(folder.join("unet/x-2.safetensors")).unwrap();
    assert!(
        place
            .refused(offline())
            .contains("unet/x-2.safetensors is missing")
    );
}

#[test]
fn progress_adds_up() {
    let place = Place::new();
    let (result, events) = place.events(place.options());
    result.unwrap();
    let files = plain_files();
    let bytes: usize = files.iter().map(|f| model()[f].len()).sum::<usize>() - MODEL_INDEX.len();
    let count = files.len() - 1; // the index was needed to know
    assert_eq!(events[0], format!("start {count} {bytes}"));
    let begun: Vec<_> = events.iter().filter(|e| e.starts_with("file ")).collect();
    assert_eq!(begun.len(), count);
    assert!(begun[count - 1].contains(&format!("{count}/{count}")));
    let at = events.iter().position(|e| e.contains(UNET)).unwrap();
    assert_eq!(events[at + 1], "bytes 0");
    let end = format!("bytes {}", model()[UNET].len());
    assert!(events[at + 2..].contains(&end));
}

#[test]
fn offline_with_and_without_a_cache() {
    let place = Place::new();
    let offline = || HubOptions {
        offline: true,
        ..place.options()
    };
    let error = place.refused(offline());
    assert!(error.contains("revision 'main' is missing") && error.contains("HF_HUB_OFFLINE"));
    let folder = {
        let folder = place.pull().unwrap();
        place.server.requests();
        folder
    };
    assert_eq!(place.pull_with(offline()).unwrap(), folder);
    // A commit names a snapshot without any ref.
    fs::remove_dir_all(place.repo().join("refs")).unwrap();
    let options = HubOptions {
        revision: Some(COMMIT.into()),
        ..offline()
    };
    assert_eq!(place.pull_with(options.clone()).unwrap(), folder);
    fs::remove_file(folder.join("vae/config.json")).unwrap();
    assert!(
        place
            .refused(options)
            .contains("vae/config.json is missing")
    );
    assert!(place.server.requests().is_empty(), "nothing was asked for");
}

#[test]
fn a_server_that_is_down_does_not_matter_to_who_has_everything() {
    let place = Place::new();
    let folder = place.pull().unwrap();
    let nobody = HubOptions {
        endpoint: Some(nobody()),
        ..place.options()
    };
    let (result, events) = place.events(nobody.clone());
    assert_eq!(result.unwrap(), folder);
    assert_eq!(events.len(), 1);
    assert!(events[0].starts_with("offline no connection"), "{events:?}");
    place.server.state().listing_faults = [503].into();
    let (result, events) = place.events(place.options());
    assert_eq!((result.unwrap(), events.len()), (folder.clone(), 1));
    fs::remove_file(folder.join(UNET)).unwrap();
    assert!(place.refused(nobody).contains("no connection"));
}

#[test]
fn the_token_goes_to_the_endpoint_only() {
    let place = Place::new();
    place.server.state().secret = Some("s3cret".into());
    let error = place.refused(place.options());
    assert!(
        error.contains("401") && error.contains("HF_TOKEN"),
        "{error}"
    );
    assert!(
        place.server.requests().len() == 1,
        "no sense in trying again"
    );
    let options = HubOptions {
        token: Some("s3cret".into()),
        ..place.options()
    };
    let folder = place.pull_with(options).unwrap();
    place.check(&folder, &plain_files());
    for request in place.server.requests() {
        assert_eq!(request.token.is_some(), !request.storage, "{request:?}");
    }
}

#[test]
fn equal_files_share_a_blob_and_sizes_may_be_unlisted() {
    let mut files = model();
    let same = files[UNET].clone();
    files.insert("vae/diffusion_pytorch_model.safetensors".into(), same);
    let place = Place::with(files);
    place.server.state().no_sizes = true;
    let folder = place.pull().unwrap();
    place.check(&folder, &plain_files());
    let requests = place.server.requests();
    let weights = |r: &&Request| r.storage && r.path.contains("diffusion_pytorch");
    assert_eq!(requests.iter().filter(weights).count(), 1);
}

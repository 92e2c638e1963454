//! Downloads that cannot succeed: exit 2, one line that says what to do, nothing partial under any name, no output; and the
//! same command works once the server does.

use std::process::{Child, Stdio};

use i2vgen_tests::hub_server::{Fault, ID, files, nobody, sha256};

use crate::{
    bad,
    common::names,
    download::{Place, UNET, model, quick},
    ok,
};

/// More than the program tries.
const ALWAYS: usize = 20;

/// A place where something is wrong, what the program must say, and what it does meanwhile. All run at once, because the
/// pauses between attempts take a quarter of a minute.
struct Case {
    name: &'static str,
    place: Place,
    says: [&'static str; 2],
    child: Child,
}

impl Case {
    fn start(name: &'static str, says: [&'static str; 2], spoil: impl FnOnce(&Place)) -> Self {
        Self::start_with(name, says, spoil, &[])
    }

    fn start_with(
        name: &'static str,
        says: [&'static str; 2],
        spoil: impl FnOnce(&Place),
        variables: &[(&str, &str)],
    ) -> Self {
        let place = Place::new();
        spoil(&place);
        let start = |arguments: &[&str]| {
            let mut command = place.command(arguments, variables);
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn().expect("the program starts")
        };
        Self {
            name,
            says,
            child: start(&quick("out.gif")),
            place,
        }
    }

    /// Waits for the end and checks what is left.
    fn check(self) -> Place {
        let (name, place) = (self.name, self.place);
        let output = self.child.wait_with_output().expect("ends");
        for says in self.says {
            bad(&output, says);
        }
        assert!(output.stdout.is_empty(), "{name}");
        let mut left = names(place.path());
        left.retain(|entry| entry != "home");
        assert_eq!(left, ["image.png"], "{name}");
        assert!(!place.repo().join("refs").exists(), "{name}");
        // What has come is complete, and what has not is not there.
        let served = model();
        for (file, content) in files(&place.snapshot()) {
            assert!(content == served[&file] && file != UNET, "{name}: {file}");
        }
        assert!(!place.repo().join("blobs").join(hash()).exists(), "{name}");
        place
    }
}

fn hash() -> String {
    sha256(&model()[UNET])
}

#[test]
fn servers_that_stay_bad() {
    let always = |fault: Fault| move |place: &Place| place.server.fail(UNET, &[fault; ALWAYS]);
    let listing = |place: &Place| place.server.state().listing_faults = [500; ALWAYS].into();
    let lie = |place: &Place| {
        let lies = &mut place.server.state().lies;
        lies.insert(UNET.into(), (hash(), 7));
    };
    let (later, again) = ("try again later", "check the network and try again");
    let mut cases = vec![
        Case::start("lie", ["but the server sends 7", later], lie),
        Case::start("long", ["should have", later], always(Fault::Longer(5))),
        Case::start("short", ["should have", later], always(Fault::Longer(-5))),
        Case::start(
            "corrupt",
            ["arrived damaged", "another network"],
            always(Fault::Corrupt),
        ),
        Case::start("cut", ["no connection", again], always(Fault::Cut(300))),
        Case::start("hung up", ["no connection", again], always(Fault::HangUp)),
        Case::start(
            "storage",
            ["answers 500", later],
            always(Fault::Status(500)),
        ),
        Case::start("listing", ["answers 500 for owner/model", later], listing),
    ];
    let dead = [("HF_ENDPOINT", &*nobody())];
    cases.push(Case::start_with(
        "nobody",
        ["no connection to http://127", again],
        |_| {},
        &dead,
    ));
    for case in cases {
        let name = case.name;
        let place = case.check();
        assert_eq!(
            place.server.requests().is_empty(),
            name == "nobody",
            "{name}"
        );
        // Only what can be continued is kept: six times 300 bytes.
        let (part, from) = match name {
            "cut" => (vec![hash() + ".incomplete"], Some("bytes=1800-".to_owned())),
            _ => (vec![], None),
        };
        assert_eq!(place.incomplete(), part, "{name}");
        // Then all is well, and a pull works.
        let mut state = place.server.state();
        state.faults.clear();
        state.lies.clear();
        state.listing_faults.clear();
        drop(state);
        ok(&place.run(&["pull", "--quiet", ID], &[]));
        assert!(files(&place.snapshot()) == model(), "{name}");
        assert!(place.incomplete().is_empty(), "{name}");
        assert_eq!(place.server.ranges(UNET), [from], "{name}");
    }
}

#[test]
fn what_no_patience_helps() {
    let place = Place::new();
    let unknown = ["pull", "owner/other"];
    bad(&place.run(&unknown, &[]), "no model 'owner/other'");
    bad(&place.run(&unknown, &[]), "check the name");
    let mut arguments = quick("out.gif");
    arguments[3] = "owner/other";
    bad(&place.run(&arguments, &[]), "check the name");
    let revision = ["pull", ID, "--revision", "v9"];
    bad(&place.run(&revision, &[]), "revision 'v9'");
    assert_eq!(place.server.requests().len(), 4, "no sense in trying again");

    for endpoint in ["nowhere", "ftp://127.0.0.1"] {
        bad(
            &place.run(&["pull", ID], &[("HF_ENDPOINT", endpoint)]),
            "HF_ENDPOINT",
        );
    }
    place.server.state().listing = Some("<html>Log in to this network</html>".into());
    bad(&place.run(&quick("out.gif"), &[]), "check HF_ENDPOINT");
    place.server.state().listing = None;
    assert_eq!(names(place.path()), ["image.png"]);

    // Only pickles: they come, and the way on is told.
    let mut files = model();
    let pickle = UNET.replace(".safetensors", ".bin");
    let content = files.remove(UNET).expect("there");
    files.insert(pickle, content);
    place.server.state().files = files;
    bad(&place.run(&quick("out.gif"), &[]), "cargo xtask convert");
    assert!(!place.path().join("out.gif").exists());

    // No model at all.
    let place = Place::new();
    place.server.state().files.remove("model_index.json");
    bad(
        &place.run(&quick("out.gif"), &[]),
        "choose another model or revision",
    );
    let place = Place::new();
    place.server.state().files.remove("vae/config.json");
    bad(&place.run(&quick("out.gif"), &[]), "has no vae/config.json");
    assert!(!place.path().join("out.gif").exists() && !place.repo().join("refs").exists());
}

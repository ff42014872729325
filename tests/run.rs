//! `kfs run`: cluster images launched for real, with programs in the place of kubectl and helm that
//! tell what they were asked.

mod host_tools;
mod skip;
#[path = "build/workshop.rs"]
#[allow(dead_code)]
mod workshop;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use workshop::Workshop;

/// Tells how it was called, and shows the files that it was given.
const TELLER: &str = r#"#!/bin/sh
echo "${0##*/} $* (A=$A, B=$B)"
while [ $# -gt 0 ]; do
    [ "$1" = -f ] && cat "$2"
    shift
done
[ -z "$KUBECONFIG" ] || cat "$KUBECONFIG"
"#;

/// An image with applications: a chart, documents, and one that APPCMDS starts.
fn extension(launch: &Value) -> Value {
    json!({
        "schemaVersion": "v1alpha1", "type": "app-installer",
        "applications": [
            {"name": "chart", "type": "helm", "files": ["chart"], "version": "v1"},
            {"name": "kube", "type": "kube", "files": ["x.yaml"], "version": "v1", "env": {"A": "of kube"}},
            {"name": "own", "version": "v1", "cmds": ["cat note", "echo own $A"]},
        ],
        "env": {"A": "of all"}, "launch": launch,
    })
}

/// A workshop with the image `new` of these files and annotations, built from a Kubefile.
fn shop(kubefile: &str, files: &[(&str, &str)], annotation: Option<Value>) -> Option<Workshop> {
    let shop = Workshop::new()?;
    for program in ["bin/kubectl", "bin/helm"] {
        shop.write(program, TELLER);
        let path = shop.path("context").join(program);
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    files.iter().for_each(|(name, text)| shop.write(name, text));
    let annotation = annotation.map(|value| format!("sealer.image.extension={value}"));
    let annotation: Vec<&str> =
        annotation.iter().flat_map(|text| ["--annotation", text.as_str()]).collect();
    let built = shop.try_build("Kubefile", kubefile, &annotation);
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    Some(shop)
}

/// The image with applications, with this launch.
fn apps(launch: &Value) -> Option<Workshop> {
    let files = [
        ("application/apps/chart/Chart.yaml", "name: chart\n"),
        ("application/apps/kube/x.yaml.tmpl", "a: {{ .A }}\nb: {{ .B }}\n"),
        ("application/apps/own/note", "a note\n"),
    ];
    shop("FROM scratch\nCOPY . .\n", &files, Some(extension(launch)))
}

/// An image as Sealos has them.
fn sealos(instructions: &str) -> Option<Workshop> {
    shop(&format!("FROM scratch\nCOPY . .\n{instructions}\n"), &[], None)
}

/// `kfs run` of it, with no cluster but those that the arguments name.
fn command(shop: &Workshop, args: &[&str]) -> Command {
    let mut command = shop.kfs(&["run", "new"]);
    command.args(args).env("HOME", shop.path("home")).env_remove("KUBECONFIG");
    command
}

#[track_caller]
fn launch(shop: &Workshop, args: &[&str]) -> Output {
    let output = command(shop, args).output().unwrap();
    shop.assert_nothing_left();
    output
}

#[track_caller]
fn said(shop: &Workshop, args: &[&str]) -> String {
    let output = launch(shop, args);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Exit code and message of a run that fails.
#[track_caller]
fn fails(shop: &Workshop, args: &[&str]) -> (i32, String) {
    let output = launch(shop, args);
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    (output.status.code().expect("an exit code"), said)
}

#[test]
fn applications_are_launched_with_their_templates_values_and_variables() {
    let Some(shop) = apps(&json!({"app_names": ["kube", "chart"]})) else { return };
    fs::write(shop.path("values.yaml"), "size: 3\n").unwrap();
    fs::write(shop.path("cluster"), "the cluster\n").unwrap();
    let args = ["-e", "B=$(touch x)'", "--values", "chart=values.yaml", "--kubeconfig", "cluster"];
    let expected = "\
kubectl apply -f application/apps/kube/x.yaml (A=of kube, B=$(touch x)')
a: of kube
b: $(touch x)'
the cluster
helm install chart application/apps/chart/ -f .kfs/values-1.yaml (A=of all, B=$(touch x)')
size: 3
the cluster
";
    assert_eq!(said(&shop, &args), expected);
    // The tests' own directory is not below /tmp, which commands do not see.
    let hidden = tempfile::NamedTempFile::new().unwrap();
    fs::write(hidden.path(), "a hidden cluster\n").unwrap();
    let args = ["--app", "own", "--app", "chart", "--kubeconfig", hidden.path().to_str().unwrap()];
    let expected = "a note\nown of all\n\
                    helm install chart application/apps/chart/ (A=of all, B=)\na hidden cluster\n";
    assert_eq!(said(&shop, &args), expected);
    assert_eq!(
        said(&shop, &["--cmd", "ls application/apps", "--cmd", "echo $A"]),
        "chart\nkube\nown\nof all\n"
    );
}

#[test]
fn sealos_images_run_entrypoint_and_cmd_and_no_variable_becomes_a_command() {
    let Some(shop) = sealos(
        r#"ENV NAME=web OPTS="--set a=b"
ENTRYPOINT ["echo $(NAME) $(touch) ${touch} $touch ${UNSET:-default}"]
CMD ["kubectl $(OPTS) '$(NAME)-${NAME}'", "echo $NAME > kept", "cat kept"]"#,
    ) else {
        return;
    };
    let output = launch(&shop, &["-e", "NAME=`id` $(id);id"]);
    let expected = "`id` $(id);id default\n\
                    kubectl --set a=b `id` $(id);id-`id` $(id);id (A=, B=)\n\
                    `id` $(id);id\n";
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    let talk = String::from_utf8_lossy(&output.stderr);
    assert!(talk.contains("$(touch) is empty: the image has no such variable"), "{talk}");
    assert_eq!(said(&shop, &["--cmd", "echo mine"]), "web default\nmine\n");
}

#[test]
fn the_first_command_that_fails_ends_the_run_with_its_code() {
    let Some(shop) = sealos(r#"CMD ["echo one", "echo two; exit 42", "echo three"]"#) else {
        return;
    };
    let output = launch(&shop, &[]);
    assert_eq!((output.status.code(), &*output.stdout), (Some(42), &b"one\ntwo\n"[..]));
    let talk = String::from_utf8_lossy(&output.stderr);
    assert!(
        talk.contains("kfs: command 2 of 3 failed with exit status 42: echo two; exit 42"),
        "{talk}"
    );
    let (code, _) = fails(&shop, &["--cmd", "kill -9 $$"]);
    assert_eq!(code, 128 + 9);
}

#[test]
fn this_machine_is_changed_only_if_it_may_be() {
    let Some(shop) = sealos(r#"CMD ["cp bin/helm $(PLACE)/helm"]"#) else { return };
    // Not below /tmp or /var/tmp, of which commands have their own.
    let place = tempfile::tempdir_in("/var/cache").unwrap();
    let variable = format!("PLACE={}", place.path().display());
    let place = place.path();
    let (code, talk) = fails(&shop, &["-e", &variable]);
    assert!(code == 1 && talk.contains("hint: an image that installs something"), "{talk}");
    assert!(!place.join("helm").exists());
    said(&shop, &["-e", &variable, "--isolation", "none"]);
    assert_eq!(fs::read_to_string(place.join("helm")).unwrap(), TELLER);
}

#[test]
fn what_would_be_run_is_shown_and_not_run() {
    let Some(shop) = apps(&json!({"app_names": ["kube", "own"]})) else { return };
    let shown = said(&shop, &["--dry-run", "-e", "B=it's"]);
    let expected = "\
# new, in the root of its file system
# application/apps/kube/x.yaml is made of application/apps/kube/x.yaml.tmpl
export PATH=\"$PWD/bin:$PATH\"
export A='of all'
export B='it'\\''s'
# application kube
A='of kube' /bin/sh -c 'kubectl apply -f application/apps/kube/x.yaml' </dev/null || exit
# application own
/bin/sh -c 'cd application/apps/own/ && cat note && echo own $A' </dev/null || exit
";
    assert_eq!(shown, expected);
    let shown = said(&shop, &["--dry-run", "--format", "json", "--app", "kube"]);
    let expected = json!({
        "image": "new", "kubeconfig": [], "env": {"A": "of all"},
        "templates": [{"template": "application/apps/kube/x.yaml.tmpl",
                       "file": "application/apps/kube/x.yaml", "size": 25}],
        "commands": [{"application": "kube", "env": {"A": "of kube"},
                      "command": "kubectl apply -f application/apps/kube/x.yaml"}],
    });
    assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), expected);
    // What is not in the image is named as well.
    fs::write(shop.path("values.yaml"), "size: 3\n").unwrap();
    let args = ["--dry-run", "--app", "chart", "--values", "chart=values.yaml"];
    let shown = said(&shop, &args);
    assert!(shown.contains("\n# .kfs/values-1.yaml is values.yaml\n"), "{shown}");
    let shown = said(&shop, &[&args[..], &["--format", "json"]].concat());
    let values = json!([{"file": ".kfs/values-1.yaml", "from": "values.yaml"}]);
    assert_eq!(serde_json::from_str::<Value>(&shown).unwrap()["values"], values);
}

/// What is shown does what a run does, line by line, with all that shells do within one.
#[test]
fn the_shown_script_does_what_the_run_does() {
    let Some(shop) = sealos(
        r#"ENV A=image KUBECONFIG=/image
CMD ["X=1; export A=changed; cd bin; false; echo one", "echo \"[$X] $A it's ${PWD##*/}\"", "read a; echo got $a", "kubectl get | cat", "(exit 7); echo \"$?\"", "echo five; exit 42; echo x", "echo six"]"#,
    ) else {
        return;
    };
    fs::write(shop.path("cluster"), "the cluster\n").unwrap();
    let args = ["-e", "B=b", "--kubeconfig", "cluster"];
    let run = launch(&shop, &args);
    let script = said(&shop, &[&args[..], &["--dry-run"]].concat());
    assert!(!script.contains("/image"), "{script}");
    // Called as the run calls it.
    shop.ok(&["cp", "new", "/", "m"]);
    // As `kfs run --dry-run | sh` does it.
    let mut shell = Command::new("/bin/sh");
    shell.current_dir(shop.path("m")).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut shell = shell.spawn().unwrap();
    shell.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let script = shell.wait_with_output().unwrap();
    let text = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(text(&script), text(&run));
    assert_eq!((script.status.code(), run.status.code()), (Some(42), Some(42)));
    assert!(text(&run).contains("kubectl get (A=image, B=b)\nthe cluster\n"), "{}", text(&run));
}

#[test]
fn what_cannot_be_launched_is_told_before_anything_runs() {
    let Some(shop) = apps(&json!({"cmds": ["echo cmds"]})) else { return };
    fs::write(shop.path("values"), "a: 1\n").unwrap();
    for (args, code, expected) in [
        (&["--app", "kub"][..], 3, "there is no application \"kub\"; there are: chart, kube, own"),
        (&["--values", "chart=/nowhere"], 1, "--values /nowhere: No such file"),
        (&["--values", "chart=context/bin/helm"], 1, "context/bin/helm: the values are not a map"),
        (&["--values", "chart=values"], 3, "values for \"chart\": it is not launched"),
        (&["--values", "chart"], 2, "not of the form APP=FILE"),
        (&["--app", "own", "--values", "own=values"], 2, "but by APPCMDS"),
        (&["-e", "SEALOS_SYS_KUBE_VERSION=v1"], 2, "cannot be set"),
        (&["-e", "A-B=1"], 2, "cannot be the name of a variable"),
        (&["--kubeconfig", "nowhere"], 3, "nowhere"),
        (&["--app", "own", "--cmd", "x"], 2, "cannot be used with"),
    ] {
        let (found, said) = fails(&shop, args);
        assert!(found == code && said.contains(expected), "{args:?}: {found}: {said}");
    }
    for (name, text, expected) in [
        ("etc/x.tmpl", "a\n{{ .A | nope }}", "etc/x.tmpl:2"),
        (
            "manifests/x.tmpl",
            "{{ define \"a\" }}{{ template \"a\" }}{{ end }}{{ template \"a\" }}",
            "manifests/x.tmpl:1",
        ),
    ] {
        let Some(shop) =
            self::shop("FROM scratch\nCOPY . .\nCMD echo ran\n", &[(name, text)], None)
        else {
            return;
        };
        let (code, said) = fails(&shop, &[]);
        assert!(code == 1 && said.contains(expected), "{said}");
    }
}

#[test]
fn the_image_of_a_container_is_not_run_on_this_machine() {
    let Some(shop) = Workshop::with_base() else { return };
    shop.build("FROM base\nCMD [\"touch\", \"x\"]");
    let (code, said) = fails(&shop, &[]);
    assert!(code == 1 && said.contains("the image of a container"), "{said}");
}

/// Starts a run that waits in the background of a background, and gives it time to be there.
fn waiting(shop: &Workshop) -> std::process::Child {
    let mut command = command(shop, &["--cmd", "(sleep 1000 & sleep 1000) & echo up; wait"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    let stdout = child.stdout.as_mut().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).unwrap();
    assert_eq!(line, "up\n");
    child
}

#[test]
fn a_signal_ends_all_that_was_started() {
    let Some(shop) = sealos("CMD true") else { return };
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut child = waiting(&shop);
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(128 + signal as i32));
        shop.assert_nothing_left();
    }
}

/// Starts a run of a line that says `up`, in a process group of its own, and waits for that.
fn started(shop: &Workshop, line: &str) -> (Child, BufReader<ChildStdout>, Pid) {
    let mut command = command(shop, &["--cmd", line, "--cmd", "echo more"]);
    command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut up = String::new();
    stdout.read_line(&mut up).unwrap();
    assert_eq!(up, "up\n");
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    (child, stdout, pid)
}

#[test]
fn a_signal_lets_the_command_end_in_good_order() {
    let Some(shop) = sealos("CMD true") else { return };
    // The shell ends at once, what it has started takes its time.
    let cleans = "trap 'sleep 0.5; echo cleaned; exit' TERM; echo up; while :; do sleep 0.1; done";
    // The second goes to the whole process group, as from timeout(1).
    for (signal, to_group) in [(Signal::SIGINT, false), (Signal::SIGTERM, true)] {
        let (mut child, mut stdout, pid) = started(&shop, &format!("({cleans}) & wait"));
        kill(if to_group { Pid::from_raw(-pid.as_raw()) } else { pid }, signal).unwrap();
        let mut rest = String::new();
        stdout.read_to_string(&mut rest).unwrap();
        // The shell may also say that its own `sleep` was ended.
        assert!(rest.ends_with("cleaned\n"), "{signal}: {rest}");
        assert_eq!(child.wait().unwrap().code(), Some(128 + signal as i32));
        shop.assert_nothing_left();
    }
}

/// The kernel ends processes in its own time.
#[track_caller]
fn wait_until_all_ended(shop: &Workshop) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !shop.processes().is_empty() {
        assert!(Instant::now() < deadline, "still there: {:?}", shop.processes());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_second_signal_ends_what_does_not_want_to_end() {
    let Some(shop) = sealos("CMD true") else { return };
    let stays = "trap 'echo asked' TERM; echo up; while :; do sleep 0.1; done";
    let (mut child, mut stdout, pid) = started(&shop, stays);
    kill(pid, Signal::SIGINT).unwrap();
    let mut lines = stdout.by_ref().lines().map(Result::unwrap);
    // The shell may also say that its own `sleep` was ended.
    assert!(lines.any(|line| line == "asked"), "the command was not asked");
    assert!(child.try_wait().unwrap().is_none());
    kill(pid, Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(Signal::SIGINT as i32));
    wait_until_all_ended(&shop);
}

#[test]
fn a_run_that_is_killed_leaves_nothing_to_repair() {
    let Some(shop) = sealos("CMD true") else { return };
    let mut child = waiting(&shop);
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until_all_ended(&shop);
    assert_eq!(said(&shop, &["--cmd", "echo again"]), "again\n");
    shop.assert_nothing_left();
}

/// As much of a Kubernetes API as `kubectl apply` needs to create a config map. Returns its address
/// and what it is sent.
fn api_server() -> (String, mpsc::Receiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (sender, received) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let (mut first, mut length) = (String::new(), 0);
            stream.read_line(&mut first).unwrap();
            loop {
                let mut header = String::new();
                stream.read_line(&mut header).unwrap();
                if header.trim().is_empty() {
                    break;
                }
                let header = header.to_lowercase();
                if let Some(value) = header.strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).unwrap();
            let path = first.split(' ').nth(1).unwrap_or_default();
            let kind = json!({"name": "configmaps", "namespaced": true, "kind": "ConfigMap",
                "verbs": ["create", "get", "patch"]});
            let (status, answer) = match path.split('?').next().unwrap_or_default() {
                "/api" => (200, json!({"kind": "APIVersions", "versions": ["v1"]})),
                "/apis" => (200, json!({"kind": "APIGroupList", "groups": []})),
                "/api/v1" => (
                    200,
                    json!({"kind": "APIResourceList", "groupVersion": "v1",
                    "resources": [kind]}),
                ),
                _ if first.starts_with("POST") => {
                    let posted: Value = serde_json::from_slice(&body).unwrap();
                    sender.send(posted.clone()).unwrap();
                    (201, posted)
                }
                _ => (
                    404,
                    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
                    "reason": "NotFound", "code": 404}),
                ),
            };
            let answer = answer.to_string();
            let head = format!(
                "HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nConnection: close\r\n\
                 Content-Length: {}\r\n\r\n",
                answer.len()
            );
            // kubectl may have what it wants.
            drop(stream.get_mut().write_all((head + &answer).as_bytes()));
        }
    });
    (address, received)
}

#[test]
fn the_kubectl_of_this_machine_reaches_the_cluster() {
    if Command::new("kubectl").args(["version", "--client"]).output().is_err() {
        return skip::skip("needs kubectl");
    }
    let Some(shop) = Workshop::new() else { return };
    let (address, received) = api_server();
    let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": format!("http://{address}")}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {}}]});
    fs::write(shop.path("config"), config.to_string()).unwrap();
    shop.write(
        "manifests/a.yaml.tmpl",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  a: {{ .A | quote }}\n",
    );
    let text = "FROM scratch\nCOPY manifests manifests\nENV A=image\n\
                CMDS [\"kubectl apply --validate=false -f manifests/a.yaml\"]\n";
    let built = shop.try_build("Kubefile", text, &[]);
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let args = ["--kubeconfig", "config", "-e", "A=given"];
    assert_eq!(said(&shop, &args), "configmap/a created\n");
    assert_eq!(
        received.recv_timeout(Duration::from_secs(60)).unwrap()["data"],
        json!({"a": "given"})
    );
    assert!(!shop.path("home").exists(), "kubectl keeps nothing in the user's place");
}

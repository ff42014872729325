//! Applications of cluster images: APP, CNI, CSI and what belongs to them.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::remote::Server;
use crate::shared_inputs::shared;
use crate::workshop::{Workshop, run};

impl Workshop {
    /// Builds a Kubefile of this text as `new`; what was said.
    #[track_caller]
    pub(crate) fn kubefile(&self, text: &str) -> String {
        let output = self.try_build("Kubefile", text, &[]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{text}\n{said}");
        said
    }

    #[track_caller]
    pub(crate) fn kubefile_fails(&self, text: &str) -> String {
        let output = self.try_build("Kubefile", text, &[]);
        assert!(!output.status.success(), "{text}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// What an image's annotation says.
    #[track_caller]
    pub(crate) fn extension(&self, image: &str) -> Value {
        let manifest = &self.inspect(image)["manifest"];
        let text = manifest["annotations"]["sealer.image.extension"].as_str().unwrap_or("null");
        serde_json::from_str(text).unwrap()
    }

    /// Puts a chart's archive somewhere.
    pub(crate) fn chart_archive(&self, path: &Path, name: &str, image: &str) {
        let chart = self.path("chart-work").join(name);
        fs::create_dir_all(chart.join("templates")).unwrap();
        fs::write(
            chart.join("Chart.yaml"),
            format!("apiVersion: v2\nname: {name}\nversion: 1.0.0\n"),
        )
        .unwrap();
        fs::write(chart.join("values.yaml"), format!("image: {image}\n")).unwrap();
        let pod = "kind: Pod\nspec:\n  containers:\n  - image: {{ .Values.image }}\n";
        fs::write(chart.join("templates/pod.yaml"), pod).unwrap();
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut tar = Command::new("tar");
        tar.args(["--sort=name", "--mtime=@0", "-czf"]).arg(path);
        run(tar.arg("-C").arg(chart.parent().unwrap()).arg(name));
    }
}

#[test]
fn applications_of_each_kind() {
    let Some(shop) = Workshop::new() else { return };
    for (file, content) in [
        ("yaml/b.yaml", "kind: B"),
        ("yaml/a.yml", "kind: A"),
        ("yaml/README.md", "read"),
        ("install.sh", "echo"),
        ("odd/data.bin", "x"),
    ] {
        shop.write(file, content);
    }
    shop.chart_archive(&shop.path("context/x.tgz"), "x", "nginx:1");
    shop.kubefile(
        "FROM scratch\nENV G=1 H=\"a b\"\nAPP yaml local://./yaml\nAPP sh local://install.sh\n\
         APP chart local://x.tgz\nAPP odd local://odd\nappcmds odd [\"one\", \"two 'x'\"]\n\
         APPENV yaml K=V L=\"a b\"\nCNI net local://install.sh\nKUBEVERSION 1.22 - 1.24\n\
         LAUNCH [\"chart\", \"yaml\"]\n",
    );
    let files = shop.files("new");
    for file in [
        "yaml/a.yml",
        "yaml/b.yaml",
        "yaml/README.md",
        "sh/install.sh",
        "chart/Chart.yaml",
        "chart/templates/pod.yaml",
        "odd/data.bin",
        "net/install.sh",
    ] {
        let path = format!("application/apps/{file}");
        assert!(files.contains(&path), "{path}: {files:?}");
    }
    let extension = shop.extension("new");
    let expected = json!([
        {"name": "chart", "type": "helm", "files": ["chart"], "version": "v1"},
        {"name": "net", "type": "shell", "files": ["install.sh"], "version": "v1"},
        {"name": "odd", "version": "v1", "cmds": ["one", "two 'x'"]},
        {"name": "sh", "type": "shell", "files": ["install.sh"], "version": "v1"},
        {"name": "yaml", "type": "kube", "files": ["a.yml", "b.yaml"], "version": "v1",
         "env": {"K": "V", "L": "a b"}},
    ]);
    assert_eq!(extension["applications"], expected);
    assert_eq!(extension["launch"], json!({"app_names": ["chart", "yaml"]}));
    assert_eq!(extension["env"], json!({"G": "1", "H": "a b"}));
    assert_eq!(
        (&extension["type"], &extension["schemaVersion"]),
        (&json!("kube-installer"), &json!("v1alpha1"))
    );
    let labels = &shop.inspect("new")["config"]["config"]["Labels"];
    assert_eq!(labels["cluster.alpha.sealer.io/kube-cni-net"], "true");
    assert_eq!(labels["app.alpha.sealer.io/supported-kube-version"], "1.22 - 1.24");
    shop.assert_nothing_left();
}

#[test]
fn a_base_has_its_applications_but_not_its_launch() {
    let Some(shop) = Workshop::new() else { return };
    shop.write("a.yaml", "kind: A");
    shop.write("b.yaml", "kind: B");
    let args = ["--type", "app-installer"];
    let text =
        "FROM scratch\nENV B=1\nAPP one local://a.yaml\nAPP two local://a.yaml\nLAUNCH one\n";
    assert!(shop.try_build("Kubefile", text, &args).status.success());
    assert_eq!(shop.extension("new")["type"], "app-installer");
    shop.ok(&["tag", "new", "base"]);
    shop.kubefile("FROM base AS mid\nAPP two local://b.yaml\nFROM mid\nLAUNCH two one\n");
    let extension = shop.extension("new");
    let names: Vec<_> = extension["applications"]
        .as_array()
        .unwrap()
        .iter()
        .map(|app| (app["name"].as_str().unwrap(), app["files"][0].as_str().unwrap()))
        .collect();
    assert_eq!(names, [("one", "a.yaml"), ("two", "b.yaml")]);
    assert_eq!(extension["launch"], json!({"app_names": ["two", "one"]}));
    assert_eq!(extension["env"], json!({"B": "1"}));
    // Of an application that is defined anew, nothing old is left.
    let files = shop.files("new");
    let files: Vec<_> = files.iter().filter(|file| file.ends_with(".yaml")).collect();
    assert_eq!(files, ["application/apps/one/a.yaml", "application/apps/two/b.yaml"]);
    shop.kubefile("FROM base\nCMDS [\"old\"]\nCMDS [\"echo hi\", \"x, y\"]\nCMD last\n");
    let extension = shop.extension("new");
    assert_eq!(extension["launch"], json!({"cmds": ["echo hi", "x, y", "last"]}));
    // Sealos's images keep their commands to themselves.
    shop.kubefile("FROM scratch\nENTRYPOINT [\"a\"]\nCMD [\"b\"]\n");
    assert_eq!(shop.extension("new")["launch"], json!({}));
    // An ordinary image stays one.
    shop.build("FROM scratch\nCMD b\n");
    assert_eq!(shop.extension("new"), Value::Null);
}

#[test]
fn applications_come_from_urls() {
    let Some(shop) = Workshop::new() else { return };
    let server = Server::new(&shop.path("served"));
    server.put("m.yaml", b"kind: M");
    shop.chart_archive(&shop.path("served/c.tgz"), "c", "nginx:1");
    let (yaml, chart) = (server.url("m.yaml"), server.url("c.tgz"));
    let text = format!("FROM scratch\nAPP m {yaml}\nAPP c {chart}\nLAUNCH m c\n");
    shop.kubefile(&text);
    assert_eq!(server.asked(), ["m.yaml 200", "c.tgz 200"]);
    let said = shop.kubefile(&text);
    assert_eq!(server.asked(), ["m.yaml 304", "c.tgz 304"]);
    assert_eq!(said.matches("cached").count(), 2, "{said}");
    let extension = shop.extension("new");
    assert_eq!(extension["applications"][1]["files"], json!(["m.yaml"]));
    assert_eq!(extension["applications"][0]["type"], "helm");
    let wrong = format!("sha256:{}", "0".repeat(64));
    for (line, message) in [
        (format!("APP m {}", server.url("no.yaml")), "answers 404 Not Found"),
        (format!("APP --checksum={wrong} m {yaml}"), "but --checksum says sha256:0000"),
    ] {
        let said = shop.kubefile_fails(&format!("FROM scratch\n{line}\n"));
        assert!(said.contains("Kubefile:2") && said.contains(message), "{said}");
    }
    shop.assert_nothing_left();
}

#[test]
fn what_is_wrong_with_an_application_is_told_at_its_line() {
    let Some(shop) = Workshop::new() else { return };
    shop.write("a.yaml", "kind: A");
    shop.write("data.bin", "x");
    shop.write("b/x.sh", "x");
    shop.write("b/x.yaml", "x");
    for (archive, member) in [("out.tgz", "x/../../../etc/Chart.yaml"), ("link.tgz", "x/link")] {
        shop.chart_archive(&shop.path("context").join(archive), "x", "nginx:1");
        let dir = shop.path("chart-work/x");
        let mut tar = Command::new("tar");
        tar.arg("-czf")
            .arg(shop.path("context").join(archive))
            .arg("-C")
            .arg(dir.parent().unwrap());
        if archive == "link.tgz" {
            std::os::unix::fs::symlink("/etc/passwd", dir.join("link")).unwrap();
            run(tar.arg("x"));
        } else {
            let rename = format!("--transform=s,x/values.yaml,{member},");
            run(tar.args(["-P", &rename, "x"]));
        }
    }
    shop.write("broken.tgz", "no gzip");
    for (lines, at, message) in [
        ("APP a local://none.yaml", 2, "\"none.yaml\" is not in the context"),
        ("APP a local://../../../etc/passwd", 2, "is not in the context"),
        ("APP a local://data.bin", 2, "nothing says how application \"a\" is started"),
        ("APP a local://b", 2, "add APPCMDS a [\"COMMAND\"]"),
        ("APP a local://broken.tgz", 2, "nothing says how application \"a\" is started"),
        ("APP a local://link.tgz", 2, "x/link is not a regular file"),
        ("APP a local://out.tgz", 2, "its name leads out of the layer"),
        ("APP a local://a.yaml\nLAUNCH b", 3, "there is no application \"b\"; there are: a"),
        ("APPCMDS a [\"x\"]\nAPP a local://a.yaml", 2, "define it with APP above"),
        ("APPENV b X=1", 2, "there is no application \"b\""),
        ("RUN echo no > x\nKUBEVERSION newest", 3, "is no range of versions"),
        ("APP a local://a.yaml\nLAUNCH a\nCMDS [\"x\"]", 4, "cannot stand beside LAUNCH"),
        ("APP a ftp://x/y", 2, "does not say where the files are"),
        ("APP a oci://127.0.0.1:1/x:1", 2, "oci://127.0.0.1:1/x:1"),
    ] {
        let said = shop.kubefile_fails(&format!("FROM scratch\n{lines}\n"));
        assert!(
            said.contains(&format!("Kubefile:{at}")) && said.contains(message),
            "{lines}: {said}"
        );
    }
    shop.assert_nothing_left();
}

#[test]
fn applications_are_those_that_sealer_makes() {
    let Some(corpus) = shared("corpus/kubefiles") else { return };
    let oracle = fs::read_to_string(corpus.join("oracle-sealer-v0.11.0.jsonl")).unwrap();
    let Some(shop) = Workshop::new() else { return };
    let mut compared = 0;
    for line in oracle.lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        let Some(apps) = row["apps"].as_object() else { continue };
        let file = corpus.join(row["path"].as_str().unwrap());
        let context = file.parent().unwrap();
        // A part of the corpus is not there.
        let text = fs::read_to_string(&file).unwrap_or_default();
        if !text.contains("FROM scratch") {
            continue;
        }
        fs::remove_dir_all(shop.path("context")).unwrap();
        run(Command::new("cp").arg("-a").arg(context).arg(shop.path("context")));
        // The platform's own files, which are binaries, are not in the corpus.
        fs::create_dir_all(shop.path("context/amd64/bin")).unwrap();
        shop.kubefile(&text);
        let extension = shop.extension("new");
        assert_eq!(extension["launch"]["app_names"], row["launch"], "{}", file.display());
        for made in extension["applications"].as_array().unwrap() {
            let sealers = &apps[made["name"].as_str().unwrap()]["app"];
            let names = |app: &Value| -> Vec<String> {
                let files = app["files"].as_array().cloned().unwrap_or_default();
                let name = |file: &Value| file.as_str().unwrap().trim_start_matches('/').to_owned();
                files.iter().map(name).collect()
            };
            assert_eq!((&made["type"], &made["cmds"]), (&sealers["type"], &sealers["cmds"]));
            assert_eq!(names(made), names(sealers));
            compared += 1;
        }
        assert_eq!(extension["applications"].as_array().unwrap().len(), apps.len());
    }
    println!("{compared} applications are as Sealer makes them");
    assert!(compared > 0);
}

#[test]
fn a_cluster_image_is_shown_as_sealer_shows_it() {
    let Some(shop) = Workshop::new() else { return };
    shop.write("a.yaml", "kind: A");
    shop.kubefile(
        "FROM scratch\nLABEL x=y\nAPP a local://a.yaml\nCNI f local://a.yaml\n\
         CNI b local://a.yaml\nLAUNCH a\n",
    );
    let shown = shop.inspect("new");
    let extension = &shown["imageExtension"];
    assert_eq!(extension["applications"][0]["name"], "a");
    let cni = "cluster.alpha.sealer.io/kube-cni";
    assert_eq!(extension["labels"], json!({"x": "y", cni: "[\"b\",\"f\"]"}));
    assert_eq!(shown["containerImageList"], json!([]));
    let id = shown["manifest"]["config"]["digest"].as_str().unwrap();
    assert_eq!(shown["id"], id.trim_start_matches("sha256:"));
    assert_eq!(shown["manifestv1"]["annotations"], json!({}));
    assert_eq!(shown["ociv1"]["config"].get("Labels"), None);
    let show = |args: &[&str]| shop.ok(&[&["inspect", "new"], args].concat());
    assert_eq!(show(&["-t", "app", "-f", "/launch/app_names/0"]), "a\n");
    assert_eq!(
        show(&["-f", "{{ range .imageExtension.applications }}{{ .name }},{{ end }}"]),
        "a,b,f,\n"
    );
    assert_eq!(show(&["-t", "container"]), "[]\n");
    assert_eq!(show(&["-t", "manifest", "--format", "/schemaVersion"]), "2\n");
    for (args, message) in [
        (&["-f", "/nothing"][..], "there is nothing at /nothing"),
        (&["-f", "{{ fail \"x\" }}"], "x"),
        (&["-f", "{{ range }}"], "--format:1"),
        (&["-f", "yaml"], "neither json"),
    ] {
        let output = shop.kfs(&[&["inspect", "new"], args].concat()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(message), "{args:?}: {said}");
    }
    shop.build("FROM scratch\nCMD x\n");
    let output = shop.kfs(&["inspect", "-t", "app", "new"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("new is no cluster image"));
    assert_eq!(shop.inspect("new").get("imageExtension"), None);
    let broken = ["--annotation", "sealer.image.extension={"];
    shop.build_with("FROM scratch\nCMD x\n", &broken);
    let output = shop.kfs(&["inspect", "new"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("annotation sealer.image.extension is malformed"), "{said}");
    shop.ok(&["inspect", "-t", "manifest", "new"]);
}

#[test]
fn the_example_builds_without_a_network() {
    let Some(shop) = Workshop::new() else { return };
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/cluster/apps");
    let example = example.to_str().unwrap();
    shop.ok(&["build", "--type", "app-installer", "-t", "hello-apps:1", example]);
    let extension = shop.extension("hello-apps:1");
    assert_eq!(extension["launch"]["app_names"], json!(["settings", "hello", "notes"]));
    let kinds: Vec<_> = extension["applications"]
        .as_array()
        .unwrap()
        .iter()
        .map(|app| app["type"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(kinds, ["helm", "shell", "kube"]);
}

use super::*;
use crate::cluster::extension::Launch as Launched;

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn variables(pairs: &[(&str, &str)]) -> Variables {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn app(name: &str, files: &[&str]) -> Application {
    Application::of_files(name, &strings(files))
}

/// A chart, documents with APPENV, and one that APPCMDS starts; the first two are launched.
fn sealer() -> Extension {
    let mut extension = Extension::default();
    extension.put(app("chart", &["Chart.yaml"]));
    extension.put(Application {
        env: variables(&[("A", "app"), ("C", "app")]),
        ..app("kube", &["x.yaml"])
    });
    extension.put(Application { cmds: strings(&["one", "two"]), ..app("own", &[]) });
    extension.env = variables(&[("A", "image"), ("B", "image")]);
    extension.launch.apps = strings(&["kube", "chart"]);
    extension
}

fn commands(launch: &Launch) -> Vec<&str> {
    launch.steps.iter().map(|step| step.command.as_str()).collect()
}

fn plan(extension: &Extension, request: &Request) -> Result<Launch, PlanError> {
    Launch::plan(&ContainerConfig::default(), Some(extension), false, request)
}

#[test]
fn launch_holds_before_cmds_and_applications_that_are_chosen_before_both() {
    let mut extension = sealer();
    extension.launch.cmds = strings(&["echo cmds"]);
    let launch = plan(&extension, &Request::default()).unwrap();
    let of_launch = [
        "kubectl apply -f application/apps/kube/x.yaml",
        "helm install chart application/apps/chart/",
    ];
    assert_eq!(commands(&launch), of_launch);
    let request = Request { apps: strings(&["own"]), ..Request::default() };
    let launch = plan(&extension, &request).unwrap();
    assert_eq!(commands(&launch), ["cd application/apps/own/ && one && two"]);
    extension.launch.apps.clear();
    assert_eq!(commands(&plan(&extension, &Request::default()).unwrap()), ["echo cmds"]);
    let request = Request { commands: strings(&["a", "b"]), ..Request::default() };
    assert_eq!(commands(&plan(&extension, &request).unwrap()), ["a", "b"]);
}

#[test]
fn what_is_given_holds_before_appenv_and_that_before_env() {
    let request = Request { env: variables(&[("C", "given")]), ..Request::default() };
    let launch = plan(&sealer(), &request).unwrap();
    assert_eq!(launch.env, variables(&[("A", "image"), ("B", "image"), ("C", "given")]));
    assert_eq!(launch.steps[0].env, variables(&[("A", "app")]));
    assert_eq!(launch.steps[1].env, Variables::new());
    let of_kube = variables(&[("A", "app"), ("B", "image"), ("C", "given")]);
    assert_eq!(launch.app_env["kube"], of_kube);
}

#[test]
fn values_are_for_charts_that_are_launched() {
    let given = |app: &str, apps: &[&str]| Request {
        values: [(app.to_owned(), strings(&["a b.yaml", "c.yaml"]))].into(),
        apps: strings(apps),
        ..Request::default()
    };
    let launch = plan(&sealer(), &given("chart", &[])).unwrap();
    let expected = "helm install chart application/apps/chart/ -f 'a b.yaml' -f c.yaml";
    assert_eq!(launch.steps[1].command, expected);
    let fails = |request: &Request| plan(&sealer(), request).unwrap_err();
    assert_eq!(
        fails(&given("kube", &[])),
        PlanError::NoChart("kube".to_owned(), "`kubectl apply`")
    );
    assert_eq!(fails(&given("own", &["own"])), PlanError::NoChart("own".to_owned(), "APPCMDS"));
    assert_eq!(fails(&given("own", &[])), PlanError::NotLaunched("own".to_owned()));
}

#[test]
fn an_image_of_sealos_runs_its_entrypoint_and_then_its_cmd() {
    let config = ContainerConfig {
        env: strings(&["NAME=web", "PATH=/bin", "EMPTY="]),
        entrypoint: Some(strings(&["/bin/sh", "-c", "echo $(NAME)"])),
        cmd: Some(strings(&["echo $(OTHER)", "echo ${NAME}"])),
        labels: variables(&[("sealos.io.type", "rootfs"), ("version", "v1.30.1")]),
        ..ContainerConfig::default()
    };
    let launch = Launch::plan(&config, None, true, &Request::default()).unwrap();
    assert_eq!(commands(&launch), ["echo ${NAME}", "echo ${OTHER}", "echo ${NAME}"]);
    assert_eq!(launch.unknown, BTreeSet::from(["OTHER".to_owned()]));
    let env = variables(&[("NAME", "web"), ("EMPTY", ""), ("SEALOS_SYS_KUBE_VERSION", "v1.30.1")]);
    assert_eq!(launch.env, env);
    let request = Request { commands: strings(&["echo mine"]), ..Request::default() };
    let launch = Launch::plan(&config, None, true, &request).unwrap();
    assert_eq!(commands(&launch), ["echo ${NAME}", "echo mine"]);
}

#[test]
fn cmd_has_the_variables_of_sealos_and_cmds_those_of_a_shell() {
    let mut extension = Extension::default();
    extension.launch.cmds = strings(&["echo $(A) $$", "echo $(B) $(C)"]);
    extension.env = variables(&[("B", "image")]);
    let config =
        ContainerConfig { cmd: Some(strings(&["echo $(B) $(C)"])), ..ContainerConfig::default() };
    let launch = Launch::plan(&config, Some(&extension), false, &Request::default()).unwrap();
    assert_eq!(commands(&launch), ["echo $(A) $$", "echo ${B} ${C}"]);
    assert_eq!(launch.unknown, BTreeSet::from(["C".to_owned()]));
}

#[test]
fn an_image_of_a_container_is_not_launched() {
    let config =
        ContainerConfig { cmd: Some(strings(&["nginx", "-g"])), ..ContainerConfig::default() };
    let none = Request::default();
    assert_eq!(Launch::plan(&config, None, true, &none), Err(PlanError::Container));
    assert!(Launch::plan(&config, None, false, &none).is_ok());
    let extension = Extension { launch: Launched::default(), ..Extension::default() };
    assert!(Launch::plan(&config, Some(&extension), true, &none).is_ok());
    let empty = ContainerConfig::default();
    assert_eq!(Launch::plan(&empty, None, false, &none), Err(PlanError::Nothing));
}

#[test]
fn names_of_variables_are_checked() {
    let with = |name: &str| Request { env: variables(&[(name, "x")]), ..Request::default() };
    let error = plan(&sealer(), &with("SEALOS_SYS_KUBE_VERSION")).unwrap_err();
    assert_eq!(error, PlanError::Protected("SEALOS_SYS_KUBE_VERSION".to_owned()));
    for name in ["", "1A", "A-B", "A B", "A\nB"] {
        assert_eq!(plan(&sealer(), &with(name)).unwrap_err(), PlanError::Name(name.to_owned()));
    }
}

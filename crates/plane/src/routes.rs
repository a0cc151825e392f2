//! Every route of the HTTPS port: the router is built from this table only.
//!
//! A route names the permission that it needs (`access`), or why it needs none; it cannot do without. Its handler is in the
//! file of its API. The tables in `docs/roles.md` are made of these and of `access`, and the test that walks them asks
//! [`listed`].
//!
//! | file | routes |
//! |---|---|
//! | `keystone` | those of the people, their projects and roles |
//! | here | all others |

mod keystone;

use std::sync::Arc;

use axum::Router;
use axum::routing::{MethodRouter, any, delete, get, patch, post, put};

use super::access::Action::{self, *};
use super::addons::catalogue;
use super::guard::{Guard, Needs, guard};
use super::http::{deadline, no_such_method, no_such_path, shaped};
use super::refusal::Shape;
use super::state::Plane;
use super::{
    agents, audit, bundles, enrol, etcd, kubeconfig, metrics, operations, page, peers, proxy,
    qbert, resmgr, rolls, standing, terminal, tokens, trace, tunnel,
};

type Handler = MethodRouter<Arc<Plane>>;

/// One of them.
struct Route {
    method: &'static str,
    path: &'static str,
    needs: Needs,
    handler: Handler,
}

/// Those with one prefix and one shape of refusals.
struct Api {
    prefix: &'static str,
    shape: Shape,
    /// No deadline: a watch lasts.
    lasts: bool,
    routes: Vec<Route>,
}

fn of(method: &'static str, path: &'static str, needs: Needs, handler: Handler) -> Route {
    Route {
        method,
        path,
        needs,
        handler,
    }
}

/// Open to everybody, and why.
fn open(method: &'static str, path: &'static str, why: &'static str, handler: Handler) -> Route {
    of(method, path, Needs::Nothing(why), handler)
}

/// For callers with this permission.
fn may(method: &'static str, path: &'static str, action: Action, handler: Handler) -> Route {
    of(method, path, Needs::May(action), handler)
}

fn all() -> Vec<Api> {
    let api = |prefix, shape, routes| Api {
        prefix,
        shape,
        lasts: false,
        routes,
    };
    vec![
        api("", Shape::Fault, ours()),
        api(metrics::PREFIX, Shape::Fault, numbers()),
        api("/alerts", Shape::Fault, alerts()),
        api("/audit", Shape::Fault, audit()),
        api("/keystone", Shape::Keystone, keystone::routes()),
        api("/resmgr", Shape::Resmgr, hosts()),
        api("/qbert", Shape::Qbert, clusters()),
        Api {
            lasts: true,
            ..api("", Shape::Kubernetes, kubernetes())
        },
    ]
}

fn ours() -> Vec<Route> {
    let page = "the page asks for a token itself";
    let ready = "it says whether the store answers";
    let token = "a join token is required";
    let certificate = "a host certificate is required";
    let plane = "a certificate of a plane of the same fleet is required";
    vec![
        open("GET", "/", page, get(page::root)),
        open("GET", "/ui", page, get(page::root)),
        open("GET", "/ui/", page, get(page::index)),
        open("GET", "/ui/{file}", page, get(page::file)),
        may("GET", "/ui/changes", SeeOneself, get(page::changes)),
        open("GET", "/healthz", "it says nothing", get(async || "ok\n")),
        open("GET", "/ready", ready, get(standing::ready)),
        open("POST", "/v1/enrol", token, post(enrol::post)),
        open("GET", "/v1/tunnel", certificate, get(tunnel::accept)),
        open("GET", peers::PATH, plane, get(peers::accept)),
        may("GET", "/v1/store", SeeFleet, get(standing::seen)),
    ]
}

fn alerts() -> Vec<Route> {
    use super::alerts::http as alerts;
    let one = "/v1/alerts/{alert_id}";
    let answer = "/v1/alerts/{alert_id}/acknowledge";
    let silences = "/v1/silences";
    let silence = "/v1/silences/{silence_id}";
    let answered = "/v1/clusters/{cluster}/availability";
    let report = "/v1/clusters/{cluster}/report";
    let receivers = "/v1/projects/{project}/receivers";
    let receiver = "/v1/projects/{project}/receivers/{receiver}";
    vec![
        may("GET", "/v1/alerts", SeeAlerts, get(alerts::list)),
        may("GET", one, SeeAlerts, get(alerts::one)),
        may("POST", answer, AnswerAlerts, post(alerts::acknowledge)),
        may("GET", silences, SeeAlerts, get(alerts::silences)),
        may("POST", silences, AnswerAlerts, post(alerts::silence)),
        may("DELETE", silence, AnswerAlerts, delete(alerts::unsilence)),
        may("GET", answered, SeeClusters, get(alerts::availability)),
        may("GET", report, SeeClusters, get(alerts::report)),
        may("GET", receivers, KeepReceivers, get(alerts::list_receivers)),
        may("PUT", receiver, KeepReceivers, put(alerts::set_receiver)),
        may(
            "DELETE",
            receiver,
            KeepReceivers,
            delete(alerts::remove_receiver),
        ),
    ]
}

fn audit() -> Vec<Route> {
    vec![may("GET", "/v1/entries", SeeAudit, get(audit::get))]
}

fn numbers() -> Vec<Route> {
    vec![
        may("GET", "/targets", SeeNumbers, get(metrics::targets)),
        may("GET", "/agents", SeeFleet, get(metrics::of_the_fleet)),
        may("GET", "/plane", SeeFleet, get(standing::numbers)),
        may(
            "GET",
            "/hosts/{host}/{source}",
            SeeNumbers,
            get(metrics::numbers),
        ),
    ]
}

fn kubernetes() -> Vec<Route> {
    let at = |path| may("ANY", path, UseKubernetes, any(proxy::handle));
    vec![
        at("/k8s/clusters/{cluster}"),
        at("/k8s/clusters/{cluster}/"),
        at("/k8s/clusters/{cluster}/{*path}"),
    ]
}

fn hosts() -> Vec<Route> {
    let role = "/v1/hosts/{host}/roles/{role}";
    let rest = "/v1/hosts/{host}/maintenance";
    let orders = "/v1/hosts/{host}/operations";
    let upgrade = "/v1/agents/upgrade";
    let kept = "/v1/hosts/{host}/bundles";
    let one = "/v1/hosts/{host}/bundles/{bundle_id}";
    vec![
        may("GET", "/v1/hosts", SeeHosts, get(resmgr::list)),
        may("GET", "/v1/hosts/{host}", SeeHosts, get(resmgr::get)),
        may(
            "DELETE",
            "/v1/hosts/{host}",
            RemoveHosts,
            delete(resmgr::remove),
        ),
        may(
            "GET",
            "/v1/hosts/{host}/events",
            SeeHosts,
            get(resmgr::events),
        ),
        may("GET", orders, SeeHosts, get(operations::get)),
        may("POST", orders, OperateHosts, post(operations::post)),
        may("GET", kept, ReadBundles, get(bundles::get)),
        may("POST", kept, ReadBundles, post(bundles::post)),
        may("GET", one, ReadBundles, get(bundles::fetch)),
        may("DELETE", one, ReadBundles, delete(bundles::delete)),
        may("POST", rest, OperateHosts, post(resmgr::begin_maintenance)),
        may(
            "DELETE",
            rest,
            OperateHosts,
            delete(resmgr::end_maintenance),
        ),
        may("PUT", role, OperateHosts, put(resmgr::authorise)),
        may("DELETE", role, OperateHosts, delete(resmgr::unauthorise)),
        may("GET", "/v1/roles", SeeOneself, get(resmgr::roles)),
        may("GET", "/v1/tokens", LetHostsIn, get(tokens::list)),
        may("POST", "/v1/tokens", LetHostsIn, post(tokens::post)),
        may(
            "DELETE",
            "/v1/tokens/{token_id}",
            LetHostsIn,
            delete(tokens::delete),
        ),
        may("GET", "/v1/agents", SeeFleet, get(agents::http::list)),
        may(
            "POST",
            "/v1/agents/policy",
            ChangeFleet,
            post(agents::http::post_policy),
        ),
        may("GET", upgrade, SeeFleet, get(agents::http::show)),
        may("POST", upgrade, ChangeFleet, post(agents::http::post)),
        may(
            "POST",
            "/v1/agents/upgrade/plan",
            SeeFleet,
            post(agents::http::post_plan),
        ),
        may(
            "POST",
            "/v1/agents/upgrade/{verb}",
            ChangeFleet,
            post(agents::http::post_turn),
        ),
    ]
}

fn clusters() -> Vec<Route> {
    let all = "/v4/{project}/clusters";
    let one = "/v4/{project}/clusters/{cluster}";
    let places = "/v4/{project}/clusters/{cluster}/etcd";
    let kubectl = "/v4/{project}/clusters/{cluster}/kubectl";
    let restore = "/v4/{project}/clusters/{cluster}/etcd/restore";
    let upgrade = "/v4/{project}/clusters/{cluster}/upgrade";
    let plan = "/v4/{project}/clusters/{cluster}/upgrade/plan";
    let turn = "/v4/{project}/clusters/{cluster}/upgrade/{verb}";
    let os = "/v4/{project}/clusters/{cluster}/os-update";
    let os_plan = "/v4/{project}/clusters/{cluster}/os-update/plan";
    let os_turn = "/v4/{project}/clusters/{cluster}/os-update/{verb}";
    let addons = "/v4/{project}/clusters/{cluster}/addons";
    let addon = "/v4/{project}/clusters/{cluster}/addons/{addon}";
    let attach = "/v4/{project}/clusters/{cluster}/attach";
    let detach = "/v4/{project}/clusters/{cluster}/detach";
    let config = "/v4/{project}/clusters/{cluster}/kubeconfig";
    let token = "/v4/{project}/clusters/{cluster}/kube-token";
    let kept = "/v4/{project}/clusters/{cluster}/kubeconfigs";
    let kept_one = "/v4/{project}/clusters/{cluster}/kubeconfigs/{token_id}";
    vec![
        may("GET", all, SeeClusters, get(qbert::list)),
        may("POST", all, MakeClusters, post(qbert::create)),
        may("GET", one, SeeClusters, get(qbert::get)),
        may("PATCH", one, ChangeClusters, patch(qbert::tune)),
        may("PUT", one, ChangeClusters, put(qbert::tune)),
        may("DELETE", one, DeleteClusters, delete(qbert::delete)),
        may("GET", places, SeeClusters, get(etcd::places::get)),
        may("POST", kubectl, UseKubernetes, post(terminal::post)),
        may("GET", restore, SeeClusters, get(etcd::restore::get)),
        may("POST", restore, RestoreClusters, post(etcd::restore::post)),
        may(
            "DELETE",
            restore,
            RestoreClusters,
            delete(etcd::restore::delete),
        ),
        may("GET", upgrade, SeeClusters, get(rolls::http::get)),
        may("POST", upgrade, ChangeClusters, post(rolls::http::post)),
        may("POST", plan, SeeClusters, post(rolls::http::post_plan)),
        may("POST", turn, ChangeClusters, post(rolls::http::post_turn)),
        may("GET", os, SeeClusters, get(rolls::http::os_get)),
        may("POST", os, ChangeClusters, post(rolls::http::os_post)),
        may(
            "POST",
            os_plan,
            SeeClusters,
            post(rolls::http::os_post_plan),
        ),
        may(
            "POST",
            os_turn,
            ChangeClusters,
            post(rolls::http::os_post_turn),
        ),
        may("GET", addons, SeeClusters, get(catalogue::get)),
        may("PUT", addon, ChangeClusters, put(catalogue::put)),
        may("POST", attach, ChangeClusters, post(qbert::attach)),
        may("POST", detach, ChangeClusters, post(qbert::detach)),
        may("GET", config, FetchKubeconfigs, get(kubeconfig::get)),
        may("POST", token, FetchKubeconfigs, post(kubeconfig::token)),
        may("GET", kept, FetchKubeconfigs, get(kubeconfig::list)),
        may("POST", kept, KeepKubeconfigs, post(kubeconfig::keep)),
        may(
            "DELETE",
            kept_one,
            FetchKubeconfigs,
            delete(kubeconfig::withdraw),
        ),
        may("GET", "/v4/{project}/nodes", SeeClusters, get(qbert::nodes)),
        may(
            "GET",
            "/v4/{project}/nodes/{host}",
            SeeClusters,
            get(qbert::node),
        ),
    ]
}

/// The router of the HTTPS port.
pub(super) fn router(plane: &Arc<Plane>) -> Router {
    let mut whole = Router::new();
    for api in all() {
        let routes = built(plane, api.prefix, api.routes);
        let routes = match api.lasts {
            true => routes,
            false => routes
                .fallback(no_such_path)
                .method_not_allowed_fallback(no_such_method)
                .layer(axum::middleware::from_fn(deadline)),
        };
        let routes = routes
            .layer(axum::middleware::map_response(shaped(api.shape)))
            .layer(axum::middleware::from_fn(trace::layer));
        whole = match api.prefix {
            "" => whole.merge(routes),
            prefix => whole.nest(prefix, routes),
        };
    }
    // Made once, and not with each tunnel: its table of routes is larger than all else of an idle session.
    let hosts = tunnel::HostApi::of(plane);
    whole
        .with_state(Arc::clone(plane))
        .layer(axum::Extension(hosts))
}

fn built(plane: &Arc<Plane>, prefix: &'static str, routes: Vec<Route>) -> Router<Arc<Plane>> {
    let mut router = Router::new();
    for route in routes {
        let state = Guard {
            plane: Arc::clone(plane),
            needs: route.needs,
            prefix,
        };
        let layer = axum::middleware::from_fn_with_state(state, guard);
        router = router.route(route.path, route.handler.layer(layer));
    }
    router
}

/// What a route needs, for the page and the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// `GET`, …, or `ANY`.
    pub method: &'static str,
    /// Its API's prefix.
    pub prefix: &'static str,
    /// Behind that, with its parameters.
    pub path: &'static str,
    /// The action in the table of `docs/roles.md`; `None`: it is open to everybody.
    pub action: Option<&'static str>,
    /// Why it is open to everybody.
    pub open: Option<&'static str>,
}

/// Every route that the router is built from.
pub fn listed() -> Vec<Listed> {
    let mut listed = Vec::new();
    for api in all() {
        for route in &api.routes {
            let (action, open) = match route.needs {
                Needs::May(action) => (Some(action.word()), None),
                Needs::Nothing(why) => (None, Some(why)),
            };
            listed.push(Listed {
                method: route.method,
                prefix: api.prefix,
                path: route.path,
                action,
                open,
            });
        }
    }
    listed
}

#[cfg(test)]
mod tests;

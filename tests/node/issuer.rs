//! Users of an OpenID Connect issuer on a real API server: a small issuer on the master, made with openssl, identifies
//! users, and the API server trusts it with its prefix, without a restart.

use std::time::Duration;

use serde_json::{Value, json};

use crate::demo::{NODES, Outcome, agent_is_ok, demo, eventually, shell};

/// The new spec arrives, is tested and written, and the API server reads the file again (within a minute) and fetches
/// the issuer's keys.
const BELIEVED: Duration = Duration::from_secs(150);
/// The issuer's URL.
const URL: &str = "https://127.0.0.1:18443";
const DIR: &str = "/run/test-issuer";
/// Keys, documents, a file server, and a token that claims what it may not.
const ISSUER: &str = r#"
set -eu
rm -rf DIR && mkdir -p DIR/.well-known && cd DIR
openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=issuer \
  -addext subjectAltName=IP:127.0.0.1 2>/dev/null
b64() { openssl base64 -A | tr '+/' '-_' | tr -d =; }
modulus=$(openssl rsa -in key.pem -noout -modulus | cut -d= -f2 | sed 's/../\\x&/g')
n=$(env printf "$modulus" | b64)
printf '{"issuer":"URL","jwks_uri":"URL/keys","response_types_supported":["id_token"],"subject_types_supported":["public"],"id_token_signing_alg_values_supported":["RS256"]}' \
  > .well-known/openid-configuration
printf '{"keys":[{"kty":"RSA","alg":"RS256","use":"sig","kid":"k","n":"%s","e":"AQAB"}]}' "$n" > keys
now=$(date +%s)
head=$(printf '{"alg":"RS256","typ":"JWT","kid":"k"}' | b64)
body=$(printf '{"iss":"URL","aud":"kubernetes","sub":"system:admin","groups":["system:masters","ops"],"iat":%s,"exp":%s}' \
  "$now" "$((now + 3600))" | b64)
sign=$(printf '%s.%s' "$head" "$body" | openssl dgst -sha256 -sign key.pem -binary | b64)
printf '%s.%s.%s' "$head" "$body" "$sign" > token
systemctl reset-failed test-issuer 2>/dev/null || :
systemd-run --quiet --unit=test-issuer --property=WorkingDirectory=DIR \
  openssl s_server -quiet -accept 127.0.0.1:18443 -cert cert.pem -key key.pem -WWW
cat cert.pem
"#;
const ENDED: &str = "systemctl stop test-issuer; rm -rf DIR";
const ASK: &str = "curl -sS -k --noproxy '*' --max-time 10";

/// Before, a token of the issuer is rejected; after, it identifies a user behind the prefix.
pub(crate) fn users_are_told_apart() -> Outcome {
    let master = NODES[0];
    let authority = shell(master, &filled(ISSUER))?;
    let before = api_server(master)?;
    if let Ok(user) = who(master) {
        return Err(format!("a stranger's token is believed: {user}"));
    }
    let told = json!({"oidc": [{
        "url": URL, "audiences": ["kubernetes"], "authority": authority,
        "username": {"claim": "sub", "prefix": "oidc:"},
        "groups": {"claim": "groups", "prefix": "oidc:"},
    }]});
    demo(&["settings", &told.to_string()])?;
    eventually("a token of the issuer is believed", BELIEVED, || {
        let user = who(master)?;
        let (name, groups) = (&user["username"], &user["groups"]);
        let meant = json!(["oidc:system:masters", "oidc:ops", "system:authenticated"]);
        assert_eq!(name, "oidc:system:admin", "{user}");
        assert_eq!(groups, &meant, "{user}");
        Ok(())
    })?;
    let secrets = asked(master, "/api/v1/secrets", "")?;
    assert_eq!(secrets["reason"], "Forbidden", "{secrets}");
    demo(&["settings", r#"{"oidc": []}"#])?;
    eventually("the issuer is believed no more", BELIEVED, || {
        match who(master) {
            Err(_) => agent_is_ok(master),
            Ok(user) => Err(user.to_string()),
        }
    })?;
    assert_eq!(before, api_server(master)?, "not started again");
    shell(master, &filled(ENDED)).map(drop)
}

fn filled(script: &str) -> String {
    script.replace("DIR", DIR).replace("URL", URL)
}

/// The identity of the token's bearer, by the API server.
fn who(master: &str) -> Outcome<Value> {
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let review = r#"-H 'Content-Type: application/json' -d '{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}'"#;
    let answer = asked(master, path, review)?;
    match answer.pointer("/status/userInfo") {
        Some(user) => Ok(user.clone()),
        None => Err(answer.to_string()),
    }
}

fn asked(master: &str, path: &str, more: &str) -> Outcome<Value> {
    let token = format!("-H \"Authorization: Bearer $(cat {DIR}/token)\"");
    let text = shell(
        master,
        &format!("{ASK} {token} {more} https://127.0.0.1:6443{path}"),
    )?;
    serde_json::from_str(&text).map_err(|e| format!("{e}: {text}"))
}

/// The process, and when it started.
fn api_server(master: &str) -> Outcome<String> {
    shell(
        master,
        "for pid in $(pgrep '^kube-apiserver'); do echo $pid $(cut -d' ' -f22 /proc/$pid/stat); done",
    )
}

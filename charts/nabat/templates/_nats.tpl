{{- /* How the programs reach NATS, and its passwords. */ -}}

{{- define "nabat.natsSecret" -}}
{{- .Values.nats.auth.existingSecret | default (printf "%s-auth" (include "nabat.nats" .)) -}}
{{- end -}}

{{- define "nabat.apiKeySecret" -}}
{{- .Values.control.apiKey.existingSecret | default (printf "%s-api-key" (include "nabat.control" .)) -}}
{{- end -}}

{{- /* natsEnv (dict "root" $ "role" "edge"): the address with the role's password, or the role's token or file. */ -}}
{{- define "nabat.natsEnv" -}}
{{- $v := .root.Values -}}
{{- if $v.nats.enabled }}
- name: NATS_PASSWORD
  valueFrom:
    secretKeyRef: {name: {{ include "nabat.natsSecret" .root }}, key: {{ .role }}}
- name: NABAT_NATS_URL
  value: nats://{{ .role }}:$(NATS_PASSWORD)@{{ include "nabat.nats" .root }}.{{ .root.Release.Namespace }}:4222
{{- else }}
{{- $auth := $v.externalNats.auth -}}
{{- $key := get $auth (printf "%sKey" .role) -}}
{{- $urls := $v.externalNats.urls -}}
{{- if eq $auth.method "password" }}
- name: NATS_PASSWORD
  valueFrom:
    secretKeyRef: {name: {{ $auth.existingSecret }}, key: {{ $key }}}
{{- $login := printf "${1}%s:$$(NATS_PASSWORD)@" (get $auth (printf "%sUser" .role)) -}}
{{- $with := list -}}
{{- range $urls }}{{ $with = append $with (regexReplaceAll "^([a-z]+://)" . $login) }}{{ end -}}
{{- $urls = $with -}}
{{- else if eq $auth.method "token" }}
- name: NABAT_NATS_TOKEN
  valueFrom:
    secretKeyRef: {name: {{ $auth.existingSecret }}, key: {{ $key }}}
{{- else if eq $auth.method "credentials" }}
- name: NABAT_NATS_CREDENTIALS
  value: /etc/nabat/nats/nats.creds
{{- end }}
- name: NABAT_NATS_URL
  value: {{ join "," $urls | quote }}
{{- if $v.externalNats.tls.caSecret }}
- name: SSL_CERT_FILE
  value: /etc/nabat/nats-ca/ca.crt
{{- end }}
{{- end }}
{{- end -}}

{{- define "nabat.natsVolumes" -}}
{{- $external := .root.Values.externalNats -}}
{{- if not .root.Values.nats.enabled }}
{{- if eq $external.auth.method "credentials" }}
- name: nats-credentials
  secret:
    secretName: {{ $external.auth.existingSecret }}
    items: [{key: {{ get $external.auth (printf "%sKey" .role) }}, path: nats.creds}]
{{- end }}
{{- with $external.tls.caSecret }}
- name: nats-ca
  secret:
    secretName: {{ . }}
    items: [{key: {{ $external.tls.caKey }}, path: ca.crt}]
{{- end }}
{{- end }}
{{- end -}}

{{- define "nabat.natsMounts" -}}
{{- $external := .Values.externalNats -}}
{{- if not .Values.nats.enabled }}
{{- if eq $external.auth.method "credentials" }}
- {name: nats-credentials, mountPath: /etc/nabat/nats, readOnly: true}
{{- end }}
{{- if $external.tls.caSecret }}
- {name: nats-ca, mountPath: /etc/nabat/nats-ca, readOnly: true}
{{- end }}
{{- end }}
{{- end -}}

{{- /* kept (dict "root" $ "name" … "keys" (list …)): the data of a secret: what is there stays, what is missing is made. */ -}}
{{- define "nabat.kept" -}}
{{- $there := (lookup "v1" "Secret" .root.Release.Namespace .name).data | default dict -}}
{{- range .keys }}
{{ . }}: {{ get $there . | default (randAlphaNum 40 | b64enc) | quote }}
{{- end }}
{{- end -}}

{{- /* mayGenerate: without a cluster to look at, each render would make new secrets. */ -}}
{{- define "nabat.mayGenerate" -}}
{{- if .root.Values.global.gitops -}}
{{- fail (printf "global.gitops is on, and %s is empty: a secret generated here would be a new one at each render. Make the secret yourself and name it in %s" .path .path) -}}
{{- end -}}
{{- end -}}

{{- /* The server of the release: its container and its configuration. */ -}}

{{- define "nabat.natsContainer" -}}
{{- $nats := .Values.nats -}}
{{- $server := eq $nats.image.program "nats-server" -}}
name: nats
{{- if $nats.image.repository }}
image: {{ include "nabat.imageName" (dict "root" $ "image" $nats.image) }}
{{- else }}
image: {{ include "nabat.image" . }}
{{- end }}
imagePullPolicy: {{ $nats.image.pullPolicy }}
{{- if $server }}
args: [--config, /etc/nats/nats.conf, --pid, /run/nats/nats.pid]
{{- else }}
args: [nats, --config, /etc/nats/nats.conf, --pid, /run/nats/nats.pid]
{{- end }}
env:
  - name: SERVER_NAME
    valueFrom: {fieldRef: {fieldPath: metadata.name}}
  {{- range list "edge" "control" "backend" "admin" "system" "route" }}
  - name: {{ upper . }}_SECRET
    valueFrom:
      secretKeyRef: {name: {{ include "nabat.natsSecret" $ }}, key: {{ . }}}
  # In quotes: nats-server reads a variable as it reads its file, digits as a number.
  - name: {{ upper . }}_PASSWORD
    value: '"$({{ upper . }}_SECRET)"'
  {{- end }}
  {{- if gt (int $nats.replicas) 1 }}
  {{- $name := include "nabat.nats" . }}
  {{- $routes := list }}
  {{- range $i := until (int $nats.replicas) }}
  {{- $routes = append $routes (printf "\"nats://route:$(ROUTE_SECRET)@%s-%d.%s-headless.%s:6222\"" $name $i $name $.Release.Namespace) }}
  {{- end }}
  - name: ROUTES
    value: '[{{ join ", " $routes }}]'
  {{- end }}
ports:
  - {name: nats, containerPort: 4222}
  - {name: cluster, containerPort: 6222}
  - {name: monitor, containerPort: 8222}
startupProbe:
  httpGet: {path: /healthz, port: monitor}
  periodSeconds: 1
  timeoutSeconds: 2
  failureThreshold: 600
readinessProbe:
  httpGet: {path: "/healthz?js-server-only=true", port: monitor}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
livenessProbe:
  httpGet: {path: "/healthz?js-enabled-only=true", port: monitor}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
lifecycle:
  preStop:
    exec:
      {{- if $server }}
      command: [nats-server, --signal, ldm=/run/nats/nats.pid]
      {{- else }}
      command: [/usr/bin/nabat, nats, --signal, ldm, --pid, /run/nats/nats.pid]
      {{- end }}
{{- with $nats.resources }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.securityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
volumeMounts:
  - {name: config, mountPath: /etc/nats, readOnly: true}
  - {name: run, mountPath: /run/nats}
  - {name: data, mountPath: /data}
{{- end -}}

{{- define "nabat.natsConfig" -}}
{{- $nats := .Values.nats -}}
server_name: $SERVER_NAME
port: 4222
http_port: 8222
max_payload: {{ $nats.maxPayload }}
lame_duck_grace_period: 2s
lame_duck_duration: {{ int $nats.lameDuckSeconds }}s

jetstream {
  store_dir: /data
  max_memory_store: {{ include "nabat.natsBytes" $nats.jetstream.memory }}
  max_file_store: {{ include "nabat.natsBytes" $nats.jetstream.disk }}
}
{{- if gt (int $nats.replicas) 1 }}

cluster {
  name: {{ include "nabat.nats" . }}
  port: 6222
  no_advertise: true
  authorization { user: route, password: $ROUTE_PASSWORD, timeout: 5 }
  routes: $ROUTES
}
{{- end }}

system_account: SYSTEM
accounts {
  SYSTEM { users: [ { user: system, password: $SYSTEM_PASSWORD } ] }
  NABAT {
    jetstream: enabled
    # One user for each role.
    users: [
      {{- $roles := .Files.Get "files/roles.json" | fromJson }}
      {{- range $role := list "edge" "control" "backend" "admin" }}
      { user: {{ $role }}, password: ${{ upper $role }}_PASSWORD{{ with index $nats.permissions $role | default (index $roles $role) }}, permissions: {{ toRawJson . }}{{ end }} }
      {{- end }}
    ]
  }
}
{{- range $key, $value := $nats.config }}
{{ $key }}: {{ toRawJson $value }}
{{- end }}
{{- end -}}

{{- /* natsBytes: 4Gi as Kubernetes writes it, 4GiB as nats-server does. */ -}}
{{- define "nabat.natsBytes" -}}
{{- $size := . | toString -}}
{{- if regexMatch "[KMGT]i$" $size }}{{ $size }}B{{ else }}{{ $size }}{{ end -}}
{{- end -}}
